"""A model of ten lines: the next token follows from the tokens before it, with little chance."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from pipeline.engine.sampler import next_token, next_tokens
from pipeline.errors import EngineFailed


class FakeRunner:
    """Logits are a fixed function of the sequence's own cache, which it really keeps by slot."""

    def __init__(self, num_slots: int = 4, vocab: int = 11, max_positions: int = 64) -> None:
        self.num_slots, self.max_positions = num_slots, max_positions
        self.vocab, self.busy_s = vocab, 0.001
        self.cache = np.full((num_slots, max_positions), -1)
        self.calls: list[tuple[str, int]] = []  # (kind, rows)
        self.error: Exception | None = None

    def _logits(self, slot: int, stop: int) -> np.ndarray:
        seen = self.cache[slot, :stop]
        assert (seen >= 0).all(), "reads a position that was never written"
        state = int((seen * np.arange(1, stop + 1)).sum())
        logits = np.sin(np.arange(self.vocab) * (1 + state % 97)).astype(np.float32) * 3
        logits[-1] -= 3  # the stop token is rare
        return logits

    def draw(self, logits, asked):
        return next_tokens(logits, 0, asked)

    def rest(self):
        self.calls.append(("rest", 0))
        self.cache[:] = -1

    def extend(self, slot, start, tokens, added):
        if self.error is not None:
            raise self.error
        self.calls.append(("extend", len(tokens)))
        self.cache[slot, start : start + len(tokens)] = tokens
        if added is not None:
            self.cache[slot, start : start + len(added)] += added
        self.cache[slot, start + len(tokens) :] = -1
        return self._logits(slot, start + len(tokens))

    def decode(self, slots, positions, tokens):
        if self.error is not None:
            raise self.error
        assert len(set(slots)) == len(slots)
        self.calls.append(("decode", len(slots)))
        self.cache[slots, positions] = tokens
        pairs = zip(slots, positions, strict=True)
        return np.stack([self._logits(slot, position + 1) for slot, position in pairs])


class LateRunner:
    """A device with a queue: it is told at once, works when waited for, and draws by itself.

    The same model as FakeRunner's, behind `drawing.DrawingRunner`. Its worst case: nothing is done
    before somebody waits for it. `is_prompt`: the other one, all is done at once.
    """

    def __init__(
        self,
        *,
        steps_ahead: int,
        is_prompt: bool = False,
        prefill_piece: int | None = None,
        **model,
    ) -> None:
        self.model, self.steps_ahead, self.is_prompt = FakeRunner(**model), steps_ahead, is_prompt
        self.num_slots, self.max_positions = self.model.num_slots, self.model.max_positions
        self.prefill_piece = prefill_piece
        self.queue: deque[Callable[[], None]] = deque()
        self.num_told = self.num_done = self.deepest = 0
        self.told: list[tuple[str, list[int]]] = []  # (kind, slots)
        self.rows: dict[int, dict] = {}  # slot → what the device knows of it

    def prefill(self, sequence, start, stop):
        slot, prompt, n = sequence.slot, sequence.prompt, sequence.num_asked
        params, uniforms = sequence.params, sequence.uniforms

        def work():
            added = None if prompt.added is None else prompt.added[start:stop]
            logits = self.model.extend(slot, start, prompt.tokens[start:stop], added)
            if stop < len(prompt.tokens):
                return {}
            self.rows[slot] = {"n": n, "at": len(prompt.tokens), "open": True}
            self.rows[slot] |= {"params": params, "uniforms": uniforms}
            return {slot: self._draw(slot, logits)}

        return self._tell("prefill", [slot], work)

    def step(self, batch):
        slots = [sequence.slot for sequence in batch]

        def work():
            going = [slot for slot in slots if self.rows[slot]["open"]]
            if not going:
                return {}
            at, tokens = ([self.rows[slot][key] for slot in going] for key in ("at", "token"))
            for slot in going:
                self.rows[slot]["at"] += 1
            logits = self.model.decode(going, at, tokens)
            return {slot: self._draw(slot, row) for slot, row in zip(going, logits, strict=True)}

        return self._tell("step", slots, work)

    def rest(self):
        assert not self.queue
        self.told.append(("rest", []))
        self.model.rest()

    def _draw(self, slot, logits):
        row = self.rows[slot]
        if not np.isfinite(logits).all():
            row["open"] = False
            return EngineFailed("no numbers")
        token = next_token(logits, 0, row["params"], row["n"], float(row["uniforms"][row["n"]]))
        row["open"] = token is not None
        row["token"], row["n"] = token, row["n"] + 1
        # whatever a row that has reached its last token draws is no concern of anyone
        row["n"] = min(row["n"], len(row["uniforms"]) - 1)
        return token

    def _tell(self, kind, slots, work):
        drawn = LateTokens(self, slots, self.num_told)
        self.num_told += 1
        self.deepest = max(self.deepest, self.num_told - self.num_done)
        self.told.append((kind, slots))
        self.queue.append(lambda: drawn.tokens.update(work()))
        if self.is_prompt:
            self.queue.popleft()()
        return drawn


class LateTokens:
    def __init__(self, device, slots, number):
        self.device, self.slots, self.number, self.tokens = device, slots, number, {}

    def wait(self):
        assert self.number == self.device.num_done, "looked at out of order"
        self.device.num_done += 1
        if not self.device.is_prompt:
            self.device.queue.popleft()()
        return self.device.model.busy_s

    def token(self, row):
        token = self.tokens[self.slots[row]]
        if isinstance(token, EngineFailed):
            raise token
        return token
