"""Which rows of the KV cache are free. Plain Python."""

from __future__ import annotations


class Slots:
    """Free and taken slots; the lowest free one is handed out first."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free = list(range(num_slots - 1, -1, -1))

    @property
    def num_free(self) -> int:
        return len(self._free)

    def take(self) -> int:
        return self._free.pop()

    def free(self, slot: int) -> None:
        assert slot not in self._free
        self._free.append(slot)
        self._free.sort(reverse=True)
