"""The least replicas with which a load is answered in time.

Search goes upward from what the work itself needs, each time to the pool that costs a request
most time for each replica it has, and then takes away again what is not needed. A large cluster is
searched in small: with two choices a replica's queue depends on the load of a replica, not on how
many there are. Only the last runs are of the whole size, with other random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Final, Literal

from pipeline.capacity.simulation import Outcome, Pool, Simulation, poisson
from pipeline.capacity.stage_costs import STAGES, Costs
from pipeline.errors import InvalidRequest

Layout = Literal["pools", "together"]
Note = Callable[[str], None]
Replicas = dict[str, int]

_SEARCHED_REPLICAS: Final = 48  # of the largest pool while searching
_MOST_TIMES: Final = 32  # the replicas that the work alone needs: then more do not help
_STEP: Final = 0.06  # of a pool, when it grows
_LEAST_REQUESTS: Final = 1500  # of a run while searching
_RESIDENCES: Final = 6  # how many times the longest request a run lasts; half as much to warm up


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked for.

    rps: requests a second, at random moments. audio_s: seconds of sound of a request; of several
    lengths each is as likely. p95_s: within which 95 % must be answered. first_audio_p95_s:
    likewise, for the first segment. segment_s: longest sound of a segment. is_streamed: the first
    segment alone before the others, as HTTP does it; jobs have all at once. max_load: the part of
    a pool's greatest throughput that may be in use.
    """

    rps: float
    audio_s: tuple[float, ...]
    p95_s: float
    first_audio_p95_s: float | None = None
    segment_s: float = 13.0
    is_streamed: bool = True
    max_load: float = 0.8

    def num_segments(self, audio_s: float) -> int:
        """Return how many segments a text of this length becomes; they are of equal length."""
        return max(1, math.ceil(audio_s / self.segment_s - 1e-9))


@dataclass(frozen=True, slots=True)
class Plan:
    """replicas: by stage. loads: the part in use of each pool's greatest throughput."""

    demand: Demand
    layout: Layout
    replicas: Replicas
    loads: Mapping[str, float]
    outcome: Outcome
    added_s: float

    @property
    def devices(self) -> int:
        return (
            max(self.replicas.values())
            if self.layout == "together"
            else sum(self.replicas.values())
        )

    def seconds(self, q: float, *, first: bool = False) -> float:
        """Return within what time a part q of the requests is answered, or begins to be heard."""
        return self.outcome.quantile(q, first=first) + self.added_s

    @property
    def meets(self) -> bool:
        demand = self.demand
        return self.seconds(0.95) <= demand.p95_s and (
            demand.first_audio_p95_s is None
            or self.seconds(0.95, first=True) <= demand.first_audio_p95_s
        )

    @property
    def device_hours_per_audio_hour(self) -> float:
        """Return device-hours for an hour of sound; the devices are paid for busy or not."""
        audio_s = self.demand.rps * sum(self.demand.audio_s) / len(self.demand.audio_s)
        return self.devices / audio_s


class Planner:
    """Plans for one load on one kind of device; the same seed gives the same plan."""

    def __init__(
        self,
        costs: Costs,
        demand: Demand,
        *,
        layout: Layout = "pools",
        requests: int = 20_000,
        seed: int = 0,
        note: Note = lambda _: None,
    ) -> None:
        """Work out what requests need.

        Args:
            requests: at least so many are measured in the last run.

        Raises:
            InvalidRequest: segments longer than were measured.
        """
        self._costs, self._demand, self._layout = costs, demand, layout
        self._requests, self._seed, self._note = requests, seed, note
        self._kinds = [
            (costs.work_s(audio_s / count),) * count
            for audio_s in demand.audio_s
            for count in [demand.num_segments(audio_s)]
        ]

    @property
    def idle_s(self) -> list[float]:
        """Return what each kind of request takes with everything to itself."""
        return sorted(
            sum(kind[0]) * (2 if self._demand.is_streamed and len(kind) > 1 else 1)
            + self._costs.added_s
            for kind in self._kinds
        )

    @property
    def idle_first_s(self) -> list[float]:
        """Return, likewise, when the first segment of each is there."""
        return sorted(sum(kind[0]) + self._costs.added_s for kind in self._kinds)

    def search(self) -> Plan:
        """Return the least replicas that do.

        Raises:
            InvalidRequest: no number of replicas would do; names the least possible time.
        """
        self._check_possible()
        least = self._least(1.0)
        scale = max(1.0, max(least.values()) / _SEARCHED_REPLICAS)
        least = self._least(scale)
        found = self._trim(self._grow(least, scale), least, scale)
        whole = {stage: math.ceil(count * scale - 1e-9) for stage, count in found.items()}
        return self._grow(whole, 1.0, is_last=True)

    def try_out(self, replicas: Replicas) -> Plan:
        """Return what given replicas do for the load.

        Raises:
            InvalidRequest: they can not do the work at all: the queue grows without end.
        """
        loads = self._loads(replicas, 1.0)
        stage = max(loads, key=lambda name: loads[name])
        if loads[stage] >= 1.0:
            raise InvalidRequest(
                f"{replicas[stage]} {stage} replicas can not keep up: the work is "
                f"{loads[stage]:.2f} times what they can do"
            )
        return self._run(replicas, 1.0, is_last=True)

    def _check_possible(self) -> None:
        demand = self._demand
        wanted = [("p95", self.idle_s, demand.p95_s)]
        if demand.first_audio_p95_s is not None:
            wanted.append(("p95 of the first sound", self.idle_first_s, demand.first_audio_p95_s))
        for name, idle_s, target_s in wanted:
            least_s = idle_s[min(len(idle_s) - 1, int(0.95 * len(idle_s)))]
            if target_s < least_s:
                raise InvalidRequest(
                    f"{name} can not be {target_s:g} s: a request alone, with every replica idle, "
                    f"takes {least_s:.3g} s on this device"
                )

    # ── replicas ─────────────────────────────────────────────────────────────────────────────────
    def _least(self, scale: float) -> Replicas:
        """Return the replicas that the work needs at the allowed load, however long it takes."""
        needed = {
            stage: load / self._demand.max_load
            for stage, load in self._loads(dict.fromkeys(STAGES, 1), scale).items()
        }
        if self._layout == "together":
            needed = dict.fromkeys(STAGES, max(needed.values()))
        return {stage: max(1, math.ceil(count - 1e-9)) for stage, count in needed.items()}

    def _loads(self, replicas: Replicas, scale: float) -> dict[str, float]:
        """Return the part of each pool's greatest throughput that the requests use."""
        used, together = {}, self._layout == "together"
        for index, stage in enumerate(STAGES):
            work_s = sum(sum(segment[index] for segment in kind) for kind in self._kinds)
            alone = self._demand.rps / scale * work_s / len(self._kinds) / replicas[stage]
            used[stage] = alone / self._costs.stages[stage].best_gain(disturbed=together)
        if together:  # every device does all of it
            whole = sum(self._costs.stages[stage].demand * load for stage, load in used.items())
            used = dict.fromkeys(STAGES, max(whole, *used.values()))
        return used

    def _grow(self, replicas: Replicas, scale: float, *, is_last: bool = False) -> Plan:
        """Add replicas until the load is answered in time."""
        most = _MOST_TIMES * sum(replicas.values())
        while True:
            plan = self._run(replicas, scale, is_last=is_last)
            if plan.meets:
                return plan
            if sum(replicas.values()) > most:
                raise InvalidRequest(
                    f"p95 stays at {plan.seconds(0.95):.3g} s with {_MOST_TIMES} times the "
                    "replicas that the work needs: ask for more time, or for another device"
                )
            step = _STEP / 3 if is_last else _STEP
            replicas = dict(replicas)
            for stage in self._worth_most(plan):
                replicas[stage] += max(1, round(step * replicas[stage]))

    def _trim(self, plan: Plan, least: Replicas, scale: float) -> Replicas:
        """Take replicas away, as long as the load is still answered in time."""
        replicas = plan.replicas

        def does_with(stages: list[str], count: int) -> bool:
            return self._run(replicas | dict.fromkeys(stages, count), scale).meets

        groups = (
            [list(STAGES)]
            if self._layout == "together"
            else [[stage] for stage in sorted(STAGES, key=lambda name: -replicas[name])]
        )
        for stages in groups:
            low, high = least[stages[0]], replicas[stages[0]]
            while low < high:
                middle = (low + high) // 2
                if does_with(stages, middle):
                    high = middle
                else:
                    low = middle + 1
            replicas = replicas | dict.fromkeys(stages, high)
        return replicas

    def _worth_most(self, plan: Plan) -> list[str]:
        """Return the pool where one more replica saves the most time.

        Queues are the longer the nearer to its greatest throughput a pool works.
        """
        if self._layout == "together":
            return list(STAGES)

        def saved_s(stage: str) -> float:
            use = plan.outcome.pools[stage]
            room = max(0.02, 1.0 - plan.loads[stage])
            return (use.visit_s - use.alone_s) / plan.replicas[stage] / room

        return [max(STAGES, key=saved_s)]

    # ── one run ──────────────────────────────────────────────────────────────────────────────────
    def _run(self, replicas: Replicas, scale: float, *, is_last: bool = False) -> Plan:
        demand, costs = self._demand, self._costs
        rps = demand.rps / scale
        lasting_s = max(self.idle_s) - costs.added_s
        count = max(
            self._requests if is_last else _LEAST_REQUESTS, math.ceil(rps * lasting_s * _RESIDENCES)
        )
        pools = [
            Pool(
                stage,
                replicas[stage],
                costs.stages[stage].slowdown,
                costs.stages[stage].slots,
                shares=self._layout == "together",
                demand=costs.stages[stage].demand,
                weight=costs.stages[stage].weight,
                lost=costs.stages[stage].lost,
            )
            for stage in STAGES
        ]
        seed = 2 * self._seed + is_last
        arrivals = poisson(rps, self._kinds, Random(seed), first_alone=demand.is_streamed)
        simulation = Simulation(pools, Random(seed + 1_000_003))
        outcome = simulation.run(arrivals, skip=count // 2, count=count)
        plan = Plan(
            replace(demand, rps=rps),
            self._layout,
            dict(replicas),
            self._loads(replicas, scale),
            outcome,
            costs.added_s,
        )
        told = ", ".join(f"{round(count * scale)} {stage}" for stage, count in replicas.items())
        self._note(f"{told}: p95 {plan.seconds(0.95):.3g} s")
        return plan
