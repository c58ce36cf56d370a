"""A causal model that draws its own tokens: embed, network, draw, write back, as one CUDA graph.

Everything that varies between steps lies in buffers of fixed shapes (`SlotState`), one row a slot.
Sequences that join, leave or pause change buffers, never the graph. The host is told tokens
through a ring of pinned memory, when the engine asks, which is some steps later. On a CPU the same
functions run as they are: there the tests drive them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pipeline.engine.device_sampler import SamplingRows, draw_rows, upload
from pipeline.engine.graphs import Capture, capture, on, own_stream
from pipeline.engine.runner import CausalRunner, Device, DeviceTurn
from pipeline.engine.sampler import STOPPED, token_of
from pipeline.engine.sequence import Sequence
from pipeline.models.gpt import TensorReader
from pipeline.spec import GPTShape, Precision

# Steps that the device is given before the first one's tokens are looked at. One would hide the
# host's work; two also its being late. More makes each cancel, and each window's end, cost more.
STEPS_AHEAD = 2
# Positions of a prompt at a time. Enough rows for the products to be bound by arithmetic, and few
# enough that a decode step of all others waits for no more than some of its own length.
PREFILL_PIECE = 256


@dataclass(frozen=True, slots=True)
class SlotState:
    """What a decode step reads and writes; one row a slot.

    taking: bool [S], the host's word on who takes part in this turn. The others compute and change
    nothing; one that draws its stop, neither: it may draw it again until the host has seen it.
    tokens: int64 [S], the newest, not in the cache yet; positions: where it goes; counts: the
    number of the next one. uniforms: float64 [S, W], from the number `first` on. logits: fp32
    [S, V], of prefills. drawn: what this turn drew.
    """

    taking: Tensor
    tokens: Tensor
    positions: Tensor
    counts: Tensor
    first: Tensor
    uniforms: Tensor
    logits: Tensor
    drawn: Tensor

    @classmethod
    def make(
        cls, num_slots: int, width: int, head_range: tuple[int, int], device: torch.device
    ) -> SlotState:
        """Return slots of which none takes part."""

        def whole(value: int = 0) -> Tensor:
            return torch.full((num_slots,), value, dtype=torch.int64, device=device)

        num_ids = head_range[1] - head_range[0]
        return cls(
            taking=torch.zeros(num_slots, dtype=torch.bool, device=device),
            tokens=whole(head_range[0]),
            positions=whole(),
            counts=whole(),
            first=whole(),
            uniforms=torch.zeros(num_slots, width, dtype=torch.float64, device=device),
            logits=torch.zeros(num_slots, num_ids, device=device),
            drawn=whole(STOPPED),
        )


class DeviceRunner(CausalRunner):
    """Fulfils `drawing.DrawingRunner`; beside it still gives logits, as every `CausalRunner`."""

    def __init__(
        self,
        read: TensorReader,
        shape: GPTShape,
        *,
        device: Device,
        precision: Precision,
        num_slots: int,
        max_positions: int,
        head_range: tuple[int, int],
        steps_ahead: int = STEPS_AHEAD,
        prefill_piece: int | None = PREFILL_PIECE,
        capture: Capture = capture,
    ) -> None:
        """Load the weights, make the graphs; see `CausalRunner`.

        Args:
            steps_ahead: 0 or more; changes no token. prefill_piece: see `drawing.DrawingRunner`.
        """
        super().__init__(
            read,
            shape,
            device=device,
            precision=precision,
            num_slots=num_slots,
            max_positions=max_positions,
            head_range=head_range,
        )
        self.steps_ahead, self.prefill_piece = steps_ahead, prefill_piece
        where = device.torch
        # only what was drawn is fed back, so of the token table the head's rows are enough
        self._drawable = self._tokens.rows(*head_range).to(where)
        self._places = self._positions.rows(0, max_positions).to(where)
        self._state = SlotState.make(num_slots, max_positions, head_range, where)
        self._rows = SamplingRows.make(num_slots, where)
        self._stream = own_stream(where)
        ring = torch.empty(steps_ahead + 2, num_slots, dtype=torch.int64)
        self._ring = ring.pin_memory() if self._stream is not None else ring
        self._num_turns = 0
        # the host's own account of the buffers, so that it need not ask
        self._taking: list[int] = []
        self._owners = [-1] * num_slots  # sequence ids
        self._uniforms_end = [0] * num_slots
        self._filtering: set[int] = set()
        # With and without the filters' sort. Nobody takes part yet, so making them changes nothing.
        with torch.inference_mode():
            both = (False, True)
            self._steps = [capture(partial(self._step, filters=f), where) for f in both]
            self._draws = [capture(partial(self._draw_prefilled, filters=f), where) for f in both]

    def prefill(self, sequence: Sequence, start: int, stop: int) -> _Flight:
        """See `drawing.DrawingRunner`."""
        slot, prompt = sequence.slot, sequence.prompt
        assert slot is not None
        added = None if prompt.added is None else prompt.added[start:stop]
        hidden = self._embed(start, prompt.tokens[start:stop], added)

        def run() -> None:
            on_device = torch.empty(hidden.shape, device=self._device.torch)
            upload(hidden, on_device)
            logits = self._gpt.extend(slot, start, on_device)
            if stop < len(prompt.tokens):
                return
            self._admit(slot, sequence)
            state = self._state
            upload(np.array(stop - 1), state.positions[slot])
            upload(np.array(sequence.num_asked), state.counts[slot])
            state.logits[slot] = logits
            self._take([slot])
            self._draws[slot in self._filtering]()

        return self._begin([slot], run)

    def step(self, batch: list[Sequence]) -> _Flight:
        """See `drawing.DrawingRunner`."""
        slots = [s.slot for s in batch if s.slot is not None]

        def run() -> None:
            for slot, sequence in zip(slots, batch, strict=True):
                if sequence.num_asked >= self._uniforms_end[slot]:
                    self._give_uniforms(slot, sequence)
            self._take(slots)
            self._steps[not self._filtering.isdisjoint(slots)]()

        return self._begin(slots, run)

    # ── what the device is told between steps ────────────────────────────────────────────────────
    def _admit(self, slot: int, sequence: Sequence) -> None:
        if self._owners[slot] != sequence.id:
            self._owners[slot] = sequence.id
            self._rows.set_row(slot, sequence.params)
            self._filtering.discard(slot)
            if sequence.params.has_filters:
                self._filtering.add(slot)
            self._uniforms_end[slot] = 0
        if sequence.num_asked >= self._uniforms_end[slot]:
            self._give_uniforms(slot, sequence)

    def _give_uniforms(self, slot: int, sequence: Sequence) -> None:
        """Upload what fits from the next token on: all of a sequence's, or all of some windows'."""
        first = sequence.num_asked
        some = sequence.uniforms[first : sequence.params.max_tokens][: self.max_positions]
        upload(some, self._state.uniforms[slot, : len(some)])
        upload(np.array(first), self._state.first[slot])
        self._uniforms_end[slot] = first + len(some)

    def _take(self, slots: list[int]) -> None:
        if slots != self._taking:
            taking = np.zeros(self.num_slots, np.bool_)
            taking[slots] = True
            upload(taking, self._state.taking)
            self._taking = slots

    def _begin(self, slots: list[int], work: Callable[[], None]) -> _Flight:
        with torch.inference_mode(), on(self._stream), self._device.turn() as turn:
            began = self._mark()
            work()
            told = self._ring[self._num_turns % len(self._ring)]
            told.copy_(self._state.drawn, non_blocking=True)
            self._num_turns += 1
            return _Flight(slots, told, turn, began, self._mark())

    def _mark(self) -> torch.cuda.Event | None:
        if self._stream is None:
            return None
        mark = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
        mark.record(self._stream)
        return mark

    # ── what the graphs hold ─────────────────────────────────────────────────────────────────────
    def _step(self, *, filters: bool) -> None:
        state = self._state
        place = state.positions.clamp(max=self.max_positions - 1)
        hidden = self._drawable[state.tokens - self.first_id].float() + self._places[place]
        self._draw(self._gpt.step(hidden, state.positions, state.taking), filters)

    def _draw_prefilled(self, *, filters: bool) -> None:
        self._draw(self._state.logits, filters)

    def _draw(self, logits: Tensor, filters: bool) -> None:
        state = self._state
        column = (state.counts - state.first).clamp(0, state.uniforms.shape[1] - 1)
        uniforms = state.uniforms.gather(1, column[:, None])[:, 0]
        drawn = draw_rows(
            logits, self.first_id, self._rows, state.counts, uniforms, filters=filters
        )
        goes_on = state.taking & (drawn >= 0)
        state.drawn.copy_(drawn)
        state.tokens.copy_(torch.where(goes_on, drawn, state.tokens))
        state.positions.add_(goes_on)
        state.counts.add_(goes_on)


class _Flight:
    """A `drawing.Drawn` on its way through the ring."""

    def __init__(
        self,
        slots: list[int],
        told: Tensor,
        turn: DeviceTurn,
        began: torch.cuda.Event | None,
        ended: torch.cuda.Event | None,
    ) -> None:
        self._slots, self._told, self._turn = slots, told, turn
        self._began, self._ended = began, ended
        self._tokens: list[int] = []

    def wait(self) -> float:
        if self._began is None or self._ended is None:
            busy_s = self._turn.busy_s
        else:
            self._ended.synchronize()
            busy_s = self._began.elapsed_time(self._ended) / 1000
        # at once: the ring's memory is written again
        self._tokens = self._told[self._slots].tolist()
        return busy_s

    def token(self, row: int) -> int | None:
        return token_of(self._tokens[row])
