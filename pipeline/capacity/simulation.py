"""Requests through pools of replicas, event by event.

A request is one or more segments; a segment visits the pools in order. Which replica of a pool it
gets is decided as Ray Serve does: of two at random, the one with fewer ongoing requests. Not
modelled: replicas that start or die, and queue lengths that an ingress knows late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from random import Random

from pipeline.capacity.replica import Device, Replica


@dataclass(frozen=True, slots=True)
class Pool:
    """Equal replicas; slowdown and slots as in `Replica`.

    shares: replica i runs on device i, as those of other pools that share do; otherwise each has
    a device of its own. demand, weight, lost: how much of a shared device one keeps busy, how
    much of it it gets where others want it, too, and what it loses to their being there.
    """

    name: str
    replicas: int
    slowdown: Callable[[int], float]
    slots: int | None = None
    shares: bool = False
    demand: float = 1.0
    weight: float = 1.0
    lost: float = 0.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request: when, and what each of its segments needs of each pool, in seconds alone.

    first_alone: the other segments start when the first is done, for a listener who waits for it.
    """

    at_s: float
    segments: tuple[tuple[float, ...], ...]
    first_alone: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """When a request's first segment and all of it were done; seconds after its arrival."""

    at_s: float
    first_s: float
    total_s: float


@dataclass(frozen=True, slots=True)
class PoolUse:
    """What a pool did.

    busy: part of the time with any work. ongoing: mean requests of a replica, at work or waiting.
    visit_s, alone_s: means of a visit, as it was and as it would be alone. work_s: of all visits
    that ended, alone.
    """

    busy: float
    ongoing: float
    visit_s: float
    alone_s: float
    work_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """answers: in order of arrival. in_flight: most requests at once."""

    answers: tuple[Answer, ...]
    pools: dict[str, PoolUse]
    in_flight: int

    def quantile(self, q: float, *, first: bool = False) -> float:
        """Return the time within which a part q of the requests was answered."""
        times = sorted(a.first_s if first else a.total_s for a in self.answers)
        return times[min(len(times) - 1, int(q * len(times)))]

    @property
    def throughput(self) -> float:
        """Return requests a second, from the first arrival to the last answer."""
        last_s = max(answer.at_s + answer.total_s for answer in self.answers)
        return len(self.answers) / (last_s - self.answers[0].at_s)


def poisson(
    rate: float,
    segments: Sequence[tuple[tuple[float, ...], ...]],
    random: Random,
    *,
    first_alone: bool = False,
) -> Iterator[Arrival]:
    """Yield requests for ever, `rate` a second, each one of the kinds in `segments`."""
    at_s = 0.0
    while True:
        at_s += random.expovariate(rate)
        yield Arrival(at_s, segments[int(random.random() * len(segments))], first_alone)


class _Request:
    __slots__ = ("arrival", "first_s", "left", "number")

    def __init__(self, number: int, arrival: Arrival) -> None:
        self.number, self.arrival = number, arrival
        self.left, self.first_s = len(arrival.segments), 0.0


class _Visit:
    """A segment on its way through the pools."""

    __slots__ = ("began_s", "pool", "request", "segment", "work")

    def __init__(self, request: _Request, segment: int) -> None:
        self.request, self.segment = request, segment
        self.work = request.arrival.segments[segment]
        self.pool, self.began_s = 0, 0.0


class Simulation:
    """One run."""

    def __init__(self, pools: Sequence[Pool], random: Random) -> None:
        """Begin with all replicas idle."""
        self._random = random
        self._pools = tuple(pools)
        devices = [Device() for _ in range(max(p.replicas for p in pools))]
        self._replicas: list[list[Replica]] = []
        for pool in pools:
            speeds = [0.0]
            self._replicas.append(
                [
                    Replica(
                        pool.slowdown,
                        pool.slots,
                        device if pool.shares else None,
                        speeds,
                        pool.demand,
                        pool.weight,
                        pool.lost,
                    )
                    for device in devices[: pool.replicas]
                ]
            )
        self._alone = not any(pool.shares for pool in pools)
        self._events: list[tuple[float, int, Replica, int]] = []
        self._count = 0
        self._visit_s = [0.0] * len(pools)
        self._visits = [0] * len(pools)

    def run(
        self, arrivals: Iterable[Arrival], *, skip: int = 0, count: int | None = None
    ) -> Outcome:
        """Run until the measured requests are answered.

        Args:
            arrivals: in order of time; may have no end where `count` is given.
            skip: so many first requests warm the system up and are not measured.
            count: of requests measured; more arrive meanwhile, so that the last of them are no
                better off. None: all.
        """
        answers: dict[int, Answer] = {}
        coming = iter(arrivals)
        arrival = next(coming, None)
        number, in_flight, most = 0, 0, 0
        now = began_s = 0.0
        while arrival is not None or self._events:
            if arrival is not None and (not self._events or arrival.at_s <= self._events[0][0]):
                now = arrival.at_s
                if number == skip:
                    began_s = now
                    self._forget(now)
                self._arrive(_Request(number, arrival), now)
                number += 1
                in_flight += 1
                most = max(most, in_flight)
                arrival = next(coming, None)
                continue
            now, _, replica, version = heappop(self._events)
            if version != replica.version:
                continue  # something changed since
            done = self._depart(replica, now)
            if done is None:
                continue
            in_flight -= 1
            if done.number >= skip and (count is None or done.number < skip + count):
                at_s = done.arrival.at_s
                answers[done.number] = Answer(at_s, done.first_s, now - at_s)
                if len(answers) == count:
                    break
        uses = self._uses(now - began_s, now)
        return Outcome(
            tuple(answers[key] for key in sorted(answers)),
            {pool.name: use for pool, use in zip(self._pools, uses, strict=True)},
            most,
        )

    def _arrive(self, request: _Request, now: float) -> None:
        together = 1 if request.arrival.first_alone else len(request.arrival.segments)
        for segment in range(together):
            self._enter(_Visit(request, segment), now)

    def _depart(self, replica: Replica, now: float) -> _Request | None:
        """End a visit, and send its segment on; return the request that is done with it."""
        visit: _Visit = replica.finish(now)
        self._schedule(replica)
        self._visits[visit.pool] += 1
        self._visit_s[visit.pool] += now - visit.began_s
        visit.pool += 1
        if visit.pool < len(self._pools):
            self._enter(visit, now)
            return None
        request = visit.request
        if visit.segment == 0:
            request.first_s = now - request.arrival.at_s
            if request.arrival.first_alone:
                for segment in range(1, len(request.arrival.segments)):
                    self._enter(_Visit(request, segment), now)
        request.left -= 1
        return None if request.left else request

    def _enter(self, visit: _Visit, now: float) -> None:
        """Send a visit to a replica of its pool."""
        replicas = self._replicas[visit.pool]
        chosen = replicas[0]
        if (n := len(replicas)) > 1:
            first = int(self._random.random() * n)
            second = int(self._random.random() * (n - 1))
            chosen, other = replicas[first], replicas[second + (second >= first)]
            if other.ongoing < chosen.ongoing:
                chosen = other
        visit.began_s = now
        chosen.add(visit, visit.work[visit.pool], now)
        self._schedule(chosen)

    def _schedule(self, changed: Replica) -> None:
        """Note when the next job ends, of every replica for which that has changed."""
        if self._alone:
            self._note(changed)
            return
        changed.version += 1  # also where it has none left
        for replica in changed.affected:
            self._note(replica)

    def _note(self, replica: Replica) -> None:
        replica.version += 1
        if replica.ongoing:
            self._count += 1
            heappush(self._events, (replica.next_end_s(), self._count, replica, replica.version))

    def _forget(self, now: float) -> None:
        """Forget the warm-up."""
        self._visit_s = [0.0] * len(self._pools)
        self._visits = [0] * len(self._pools)
        for replica in (r for pool in self._replicas for r in pool):
            replica.advance(now)
            replica.busy_s = replica.work_s = replica.job_s = 0.0

    def _uses(self, elapsed_s: float, now: float) -> Iterator[PoolUse]:
        for replicas, visit_s, visits in zip(
            self._replicas, self._visit_s, self._visits, strict=True
        ):
            for replica in replicas:
                replica.advance(now)
            total_s = max(elapsed_s, 1e-9) * len(replicas)
            work_s = sum(replica.work_s for replica in replicas)
            yield PoolUse(
                busy=sum(replica.busy_s for replica in replicas) / total_s,
                ongoing=sum(replica.job_s for replica in replicas) / total_s,
                visit_s=visit_s / max(1, visits),
                alone_s=work_s / max(1, visits),
                work_s=work_s,
            )
