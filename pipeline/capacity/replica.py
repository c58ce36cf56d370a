"""One replica as a queueing system: slots, and a queue before them.

Those at work share the replica; how fast each goes depends on how many they are. It is counted in
virtual time, so a change costs one heap operation whatever the batch.

Replicas may share a device (a laptop: all stages on the same cores). Where those that have work
demand more of it than there is, it is shared by their weights, and what one can not use is left to
the others. And their steps may be disturbed: what each loses to others that have work comes on top.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from typing import Any


class Device:
    """What several replicas run on. `busy` are those with work."""

    __slots__ = ("busy",)

    def __init__(self) -> None:
        self.busy: dict[Replica, None] = {}  # in order, for runs that can be repeated

    def advance(self, now: float) -> None:
        """Bring all to now, before something changes."""
        for replica in self.busy:
            replica.advance(now)

    def changed(self, replica: Replica) -> None:
        """Share anew after a replica got or lost work."""
        if replica.ongoing:
            self.busy[replica] = None
        else:
            self.busy.pop(replica, None)
        # from the heaviest on, so that what exceeds its full speed is there for the rest
        left, wanted = 1.0, sum(one.weight * one.demand for one in self.busy)
        for one in sorted(self.busy, key=lambda one: -one.weight):
            one.share = min(1.0, left * one.weight / wanted)
            one.is_disturbed = len(self.busy) > 1
            left -= one.share * one.demand
            wanted -= one.weight * one.demand


class Replica:
    """`slots` jobs at work, each progressing at 1/slowdown(batch) seconds alone a second.

    Jobs are anything; a finished one is returned by `finish`. Sums for whoever asks afterwards:
    busy_s, work_s (of finished jobs), job_s (the integral of ongoing jobs over time).
    """

    __slots__ = (
        "_at_work", "_clock", "_device", "_lost", "_number", "_queue", "_slots", "_slowdown",
        "_speeds", "_updated_s", "busy_s", "demand", "is_disturbed", "job_s", "ongoing", "share",
        "version", "weight", "work_s",
    )  # fmt: skip

    def __init__(
        self,
        slowdown: Callable[[int], float],
        slots: int | None = None,
        device: Device | None = None,
        speeds: list[float] | None = None,
        demand: float = 1.0,
        weight: float = 1.0,
        lost: float = 0.0,
    ) -> None:
        """Begin empty.

        Args:
            device: that it shares with others; None: it has one of its own.
            speeds: 1/slowdown by batch, from 0; grown as needed, and best shared by equal
                replicas.
            demand: how much of a shared device it keeps busy while it works.
            weight: how much of it this one gets beside others who want it at once.
            lost: what a second of work alone loses while others on the device have work, in
                seconds; a batch loses it once.
        """
        self._slowdown, self._slots, self._device = slowdown, slots or inf, device
        self.demand, self.weight, self.share = demand, weight, 1.0
        self._lost, self.is_disturbed = lost, False
        self._speeds = [0.0] if speeds is None else speeds
        self._at_work: list[tuple[float, int, float, Any]] = []  # end in virtual time first
        self._queue: deque[tuple[float, Any]] = deque()
        self._clock = self._updated_s = 0.0  # virtual time, and when it was true
        self._number = self.version = self.ongoing = 0
        self.busy_s = self.work_s = self.job_s = 0.0

    def advance(self, now: float) -> None:
        """Bring virtual time up to now."""
        elapsed = now - self._updated_s
        self._updated_s = now
        if batch := len(self._at_work):
            self._clock += elapsed * self._speed(batch)
            self.busy_s += elapsed
            self.job_s += elapsed * self.ongoing

    def add(self, job: Any, work_s: float, now: float) -> None:
        """Take a job that needs `work_s` seconds alone."""
        self._before_change(now)
        self.ongoing += 1
        if len(self._at_work) < self._slots:
            self._start(job, work_s)
        else:
            self._queue.append((work_s, job))
        if self._device is not None:
            self._device.changed(self)

    def finish(self, now: float) -> Any:
        """Take out the job that ends now."""
        self._before_change(now)
        end, _, work_s, job = heappop(self._at_work)
        self._clock = end  # exactly, whatever rounding did on the way
        self.work_s += work_s
        self.ongoing -= 1
        if self._queue:
            work_s, waiting = self._queue.popleft()
            self._start(waiting, work_s)
        if self._device is not None:
            self._device.changed(self)
        return job

    def next_end_s(self) -> float:
        """Return when the next job ends if nothing changes; only where there is one."""
        left = max(0.0, self._at_work[0][0] - self._clock)
        return self._updated_s + left / self._speed(len(self._at_work))

    @property
    def affected(self) -> list[Replica]:
        """Return those whose next end may have changed with this one's last change."""
        return [self] if self._device is None else list(self._device.busy)

    def _speed(self, batch: int) -> float:
        speed = self._speeds[batch]
        if self.is_disturbed:
            speed /= 1.0 + self._lost * speed
        return speed * self.share

    def _before_change(self, now: float) -> None:
        self.advance(now)
        if self._device is not None:
            self._device.advance(now)

    def _start(self, job: Any, work_s: float) -> None:
        self._number += 1
        heappush(self._at_work, (self._clock + work_s, self._number, work_s, job))
        if len(self._at_work) >= len(self._speeds):
            self._speeds.append(1.0 / self._slowdown(len(self._at_work)))
