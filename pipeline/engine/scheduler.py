"""Which sequences run in the next step. Plain Python: no torch, no clock, no threads.

It goes in rounds. Prefills come first: a sequence that waits for one holds a slot that does
nothing, and every step that it joins sooner makes later steps' batches fuller. But in a round each
sequence is prefilled once, and there are no more prefills than slots; then everyone who can takes
a decode step. So nobody starves, however often a neighbour's window moves.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from pipeline.engine.sequence import Sequence
from pipeline.engine.slots import Slots


@dataclass(frozen=True, slots=True)
class Step:
    """One turn: the sequences to drop, then one prefill, or one decode step, or neither.

    Neither: whoever runs waits for tokens that are in flight.
    """

    cancelled: list[Sequence] = field(default_factory=list)
    expired: list[Sequence] = field(default_factory=list)
    prefill: Sequence | None = None
    decode: list[Sequence] = field(default_factory=list)


class Scheduler:
    """First come, first served, over a fixed number of slots."""

    def __init__(self, num_slots: int) -> None:
        self.slots = Slots(num_slots)
        self.waiting: deque[Sequence] = deque()
        self.running: dict[int, Sequence] = {}  # slot → sequence
        self._prefilled: set[int] = set()  # ids, in this round

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def has_low(self) -> bool:
        """Say whether there is work of low priority."""
        return any(s.is_low for s in (*self.waiting, *self.running.values()))

    @property
    def has_other(self) -> bool:
        """Say whether there is work that is not of low priority."""
        return not all(s.is_low for s in (*self.waiting, *self.running.values()))

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence: behind all others, but before those of low priority."""
        if sequence.is_low:
            self.waiting.append(sequence)
            return
        self.waiting.insert(sum(not s.is_low for s in self.waiting), sequence)

    def schedule(self, now_s: float) -> Step:
        """Drop what was cancelled or is late, fill free slots, choose the next work.

        Sequences of low priority do nothing while there are others, and give up their slots for
        them, the youngest first.
        """
        cancelled, expired = self._drop(now_s)
        self._make_room()
        while self.waiting and self.slots.num_free:
            sequence = self.waiting.popleft()
            sequence.slot = self.slots.take()
            self.running[sequence.slot] = sequence
        in_order = sorted(self.running.values(), key=lambda s: s.id)
        if self.has_other:
            in_order = [s for s in in_order if not s.is_low]
        due = [s for s in in_order if s.needs_prefill]
        decode = [s for s in in_order if s.can_decode]
        fresh = [s for s in due if s.id not in self._prefilled]
        if decode and (not fresh or len(self._prefilled) >= self.slots.num_slots):
            self._prefilled.clear()
            return Step(cancelled, expired, decode=decode)
        if not due:
            return Step(cancelled, expired)
        if not fresh:
            self._prefilled.clear()
        chosen = (fresh or due)[0]
        self._prefilled.add(chosen.id)
        return Step(cancelled, expired, prefill=chosen)

    def finish(self, sequence: Sequence) -> None:
        """Free the slot of a sequence that will not run again."""
        assert sequence.slot is not None
        del self.running[sequence.slot]
        self.slots.free(sequence.slot)
        sequence.slot = None

    def _make_room(self) -> None:
        """Take slots from sequences of low priority for others that wait."""
        wanted = sum(not s.is_low for s in self.waiting) - self.slots.num_free
        low = sorted((s for s in self.running.values() if s.is_low), key=lambda s: -s.id)
        for sequence in low[: max(0, wanted)]:
            self.finish(sequence)
            sequence.restart()
            self.waiting.insert(sum(not s.is_low for s in self.waiting), sequence)

    def _drop(self, now_s: float) -> tuple[list[Sequence], list[Sequence]]:
        cancelled: list[Sequence] = []
        expired: list[Sequence] = []
        for sequence in [*self.waiting, *self.running.values()]:
            if sequence.is_cancelled:
                cancelled.append(sequence)
            elif sequence.is_given_up(now_s):
                expired.append(sequence)
        for sequence in (*cancelled, *expired):
            if sequence.slot is not None:
                self.finish(sequence)
            else:
                self.waiting.remove(sequence)
        return cancelled, expired
