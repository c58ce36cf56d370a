"""Between the engine and a model: sequences in, drawn tokens out, at once or some turns later.

Where the model gives logits, `HostDrawing` draws here, by the rules of `sampler.py`. Where a
device draws by itself, its runner is a `DrawingRunner`, and the engine looks at a token only when
the device has been given `steps_ahead` more turns to work on.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.sampler import Asked, token_of
from pipeline.engine.sequence import Sequence

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


class Runner(Protocol):
    """A causal model with a KV cache of `num_slots` rows of `max_positions`; see runner.py.

    `busy_s`: how long the last call had the device, which is less than it took where other models
    had it in between.
    """

    num_slots: int
    max_positions: int
    busy_s: float

    def extend(self, slot: int, start: int, tokens: Int64, added: Int64 | None) -> Float32:
        """Run tokens [P] at positions start…, keep their KV; return the last one's logits [V]."""

    def decode(self, slots: list[int], positions: list[int], tokens: list[int]) -> Float32:
        """Run one token for each of B sequences; return logits [B, V]."""

    def draw(self, logits: Float32, asked: Seq[Asked]) -> list[int]:
        """Draw a token from each row of logits [B, V], or what sampler.py has in place of one."""

    def rest(self) -> None:
        """No sequence runs now: what the slots hold is not needed again."""


class Drawn(Protocol):
    """What a prefill or a decode step gives: one token a sequence, perhaps still to come."""

    def wait(self) -> float:
        """Wait until the device is done; return how long it worked for this, in seconds."""

    def token(self, row: int) -> int | None:
        """Return the token of the batch's given sequence, or None where it ends instead.

        Raises:
            EngineFailed: its logits are no numbers.
        """


@runtime_checkable
class DrawingRunner(Protocol):
    """A model that draws its tokens by itself; see device_runner.py.

    A call returns when the device has been told, not when it is done. Calls take effect in their
    order. `steps_ahead`: so many more calls are made before the first one's tokens are looked at.
    A sequence that has ended meanwhile draws on to no effect, in its own slot. `prefill_piece`: so
    many positions are run at a time, at most, before others have their turn; None: any number.
    """

    num_slots: int
    max_positions: int
    steps_ahead: int
    prefill_piece: int | None

    def prefill(self, sequence: Sequence, start: int, stop: int) -> Drawn:
        """Run the prompt's tokens [start, stop) in the sequence's slot; draw where they end it."""

    def step(self, batch: list[Sequence]) -> Drawn:
        """Run each sequence's newest token, and draw its next."""

    def rest(self) -> None:
        """No sequence runs now: what the slots hold is not needed again."""


class HostDrawing:
    """A `DrawingRunner` over a model that gives logits: everything is known at once."""

    steps_ahead = 0
    prefill_piece = None  # decode steps are not much shorter here, and fewer rows cost more each

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.num_slots, self.max_positions = runner.num_slots, runner.max_positions

    def prefill(self, sequence: Sequence, start: int, stop: int) -> Drawn:
        """See `DrawingRunner`."""
        prompt = sequence.prompt
        assert sequence.slot is not None
        added = None if prompt.added is None else prompt.added[start:stop]
        logits = self._runner.extend(sequence.slot, start, prompt.tokens[start:stop], added)
        return self._draw([sequence], logits[None])

    def step(self, batch: list[Sequence]) -> Drawn:
        """See `DrawingRunner`."""
        slots = [s.slot for s in batch if s.slot is not None]
        tokens = [s.pending for s in batch if s.pending is not None]
        positions = [len(s.cached) for s in batch]
        return self._draw(batch, self._runner.decode(slots, positions, tokens))

    def rest(self) -> None:
        """See `DrawingRunner`."""
        self._runner.rest()

    def _draw(self, batch: list[Sequence], logits: Float32) -> _Known:
        asked = [Asked(s.params, len(s.tokens), s.uniforms[len(s.tokens)]) for s in batch]
        return _Known(self._runner.draw(logits, asked), self._runner.busy_s)


class _Known:
    """A `Drawn` whose tokens are there already."""

    def __init__(self, tokens: list[int], busy_s: float) -> None:
        self._tokens, self._busy_s = tokens, busy_s

    def wait(self) -> float:
        return self._busy_s

    def token(self, row: int) -> int | None:
        return token_of(self._tokens[row])
