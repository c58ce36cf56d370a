"""A model of ten lines: the next token follows from the tokens before it, with little chance."""

from __future__ import annotations

import numpy as np


class FakeRunner:
    """Logits are a fixed function of the sequence's own cache, which it really keeps by slot."""

    def __init__(self, num_slots: int = 4, vocab: int = 11, max_positions: int = 64) -> None:
        self.num_slots, self.max_positions, self.first_id = num_slots, max_positions, 0
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
