"""`make plan-check`: whether `bark-serve plan` tells the truth.

The real application on this machine, under requests at random moments, beside the simulation of
the same moments, with costs as the plan gets them, measured in the same run. A machine that others
share does not hold its speed. So costs are those of a bench before and one after, with decode steps
as long as requests alone in the service tell, just before and just after the moments in question:
the loads take turns, in rounds.

All stages are on this machine's cores, so the simulation shares one device among them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import fmean
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from deployments.check_service import Sent, Served
from pipeline.bench.machine import machine_busy_s
from pipeline.bench.measure import ChildProcess, measure
from pipeline.bench.suites import Settings
from pipeline.bench.workload import Work
from pipeline.capacity.simulation import Arrival, Outcome, Pool, Simulation
from pipeline.capacity.stage_costs import STAGES, Costs, StageCost, costs_of
from pipeline.engine.native_gpt import default_num_threads

Json = dict[str, Any]
LEVELS = (1, 2, 4, 8)
SLOTS = max(LEVELS)
SERVICE_WEIGHT = 3.0
ROUNDS = 12  # of each load
IDLE_REQUESTS = 9  # before and after each round
QUIET_CORES = 0.15
ALLOWED = 0.2  # of what was measured
STEADY = 0.1  # beyond it, the bench after the requests was of another machine than that before
SEED = 7


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """Requests of one load, and what a request alone took at that time."""

    load: float
    answers: Sequence[Sent]
    idle_s: float


def check(
    model: Annotated[str, typer.Option("--model", "-m")] = "nano",
    precision: Annotated[str, typer.Option("--precision", "-p")] = "fp32",
    seconds: Annotated[float, typer.Option(help="Sound of every request.")] = 4.0,
    load: Annotated[
        list[float] | None,
        typer.Option(help="Of what the plan says it can do at most, repeatable; 0.4 and 0.6."),
    ] = None,
    requests: Annotated[int, typer.Option(min=20, help="Of each load.")] = 360,
) -> None:
    """Print what was measured beside what was simulated; the last line is JSON.

    Exits with 1 where they differ by more than a fifth, and says so where the machine's own speed
    changed too much meanwhile to tell.
    """
    console = Console(stderr=True, highlight=False)
    threads, loads = default_num_threads(), load or [0.4, 0.6]
    settings = Settings(
        model=model,
        seconds=seconds,
        precisions=(precision,),
        concurrency=LEVELS,
        threads=threads,
        repeats=3,
        transformers=False,
    )

    def bench() -> Json:
        wait_for_quiet(console)
        return measure(settings, ChildProcess(threads, console.print), console.print)

    before = bench()
    console.print("the service")
    work = Work(**before["settings"]["work"])
    with Served(model, precision, work, SLOTS, SEED) as served:
        served.send([0.0] * SLOTS)  # warms all processes up
        apart = {"serve": served.alone()}
        most = capacity(costs_of(before | apart))
        rounds, idle_s = [], served.idle_s(IDLE_REQUESTS)
        for number in range(1, ROUNDS + 1):
            for part in loads:
                console.print(f"  round {number} of {ROUNDS}, {part * most:.2f} requests a second")
                answers = served.send_at_random(part * most, requests // ROUNDS)
                then_s, idle_s = idle_s, served.idle_s(IDLE_REQUESTS)
                rounds.append(Round(part, answers, fmean((then_s, idle_s))))
    after = bench()
    costs = mean_costs(costs_of(before | apart), costs_of(after | apart))
    alone = ", ".join(f"{one.idle_s:.3f}" for one in rounds)
    planned_s = costs.alone_s + costs.added_s
    console.print(f"a request alone: {alone} s; as planned {planned_s:.3f} s")
    rows = [compare([one for one in rounds if one.load == part], costs) for part in loads]
    show(rows)
    slower = {str(level): work_s(after, level) / work_s(before, level) for level in LEVELS}
    found = {"before": before, "after": after, "slower": slower, "loads": rows}
    print(json.dumps(found | apart))
    moved = abs(fmean(slower.values()) - 1)
    console.print(f"between the two benches the machine's speed moved by {moved:.0%}")
    ratios = [row["ratio"][key] for row in rows for key in ("throughput", "p95_s")]
    if any(abs(ratio - 1) > ALLOWED for ratio in ratios):
        why = "; the machine's own speed moved, too: run it again" if moved > STEADY else ""
        sys.exit(f"simulated and measured differ by more than {ALLOWED:.0%}{why}")


def work_s(report: Json, level: int) -> float:
    """Return the seconds that so many clips at once took all stages."""
    stage_s: dict[str, float] = report["concurrency"][str(level)]["stage_s"]
    return sum(stage_s.values())


def mean_costs(before: Costs, after: Costs) -> Costs:
    """Return what lies in the middle of two benches of the same work."""

    def middle(one: StageCost, other: StageCost) -> StageCost:
        pairs = zip(one.together, other.together, strict=True)
        return replace(
            one,
            alone_s=fmean((one.alone_s, other.alone_s)),
            fixed_s=fmean((one.fixed_s, other.fixed_s)),
            demand=fmean((one.demand, other.demand)),
            together=tuple((size, fmean((a, b))) for (size, a), (_, b) in pairs),
        )

    stages = {stage: middle(cost, after.stages[stage]) for stage, cost in before.stages.items()}
    return replace(before, stages=stages)


def wait_for_quiet(console: Console) -> None:
    """Wait until others leave the machine alone, for a minute at most."""
    for _ in range(30):
        before_s = machine_busy_s()
        time.sleep(2)
        now_s = machine_busy_s()
        if before_s is None or now_s is None or now_s - before_s < 2 * QUIET_CORES:
            return
    console.print("NOT a quiet machine: others keep it busy", style="red")


def simulate(costs: Costs, moments_s: Sequence[float]) -> Outcome:
    """Run the same requests through one replica of each stage, all on one device."""
    pools = [
        Pool(
            stage,
            1,
            cost.slowdown,
            cost.slots,
            shares=True,
            demand=cost.demand,
            weight=cost.weight,
            lost=cost.lost,
        )
        for stage, cost in costs.stages.items()
    ]
    # what the service adds is work too, but each of its processes has one thread for it, which
    # mostly sleeps and so gets a core soon after it wakes
    demand = 1 / default_num_threads()
    pools.insert(0, Pool("service", 1, float, shares=True, demand=demand, weight=SERVICE_WEIGHT))
    segment = (max(costs.added_s, 1e-6), *(costs.stages[stage].alone_s for stage in STAGES))
    arrivals = [Arrival(at_s, (segment,)) for at_s in moments_s]
    return Simulation(pools, Random(SEED)).run(arrivals)


def capacity(costs: Costs) -> float:
    """Return the requests a second that one device can do at most."""
    stages = costs.stages.values()
    least_s = sum(one.demand * one.alone_s / one.best_gain(disturbed=True) for one in stages)
    return 1.0 / (least_s + costs.added_s / default_num_threads())


def compare(rounds: Sequence[Round], costs: Costs) -> Json:
    """Return what came of the requests of one load beside what was to be expected."""
    found = [[(answer.at_s, answer.took_s) for answer in one.answers] for one in rounds]
    expected = []
    for one in rounds:
        then = costs.longer(one.idle_s - costs.added_s - costs.alone_s)
        outcome = simulate(then, [answer.at_s for answer in one.answers])
        expected.append([(answer.at_s, answer.total_s) for answer in outcome.answers])
    measured, simulated = figures(found), figures(expected)
    num_requests = sum(map(len, found))
    return {
        "load": rounds[0].load,
        "rps": num_requests / sum(answers[-1][0] - answers[0][0] for answers in found),
        "requests": num_requests,
        "measured": measured,
        "simulated": simulated,
        "ratio": {key: simulated[key] / measured[key] for key in measured},
        "rounds": [
            {"idle_s": one.idle_s, "answers": a} for one, a in zip(rounds, found, strict=True)
        ],
    }


def figures(rounds: Sequence[Sequence[tuple[float, float]]]) -> dict[str, float]:
    """Return throughput and quantiles of requests: (when, how long), in seconds."""
    took_s = sorted(took for answers in rounds for _, took in answers)
    lasted_s = sum(max(at + took for at, took in one) - one[0][0] for one in rounds)
    return {
        "throughput": len(took_s) / lasted_s,
        "p50_s": took_s[int(0.5 * len(took_s))],
        "p95_s": took_s[int(0.95 * len(took_s))],
    }


def show(rows: Sequence[Json]) -> None:
    """Print one table for people."""
    table = Table(box=None)
    for column in ("load", "requests a second", "", "throughput", "p50 s", "p95 s"):
        table.add_column(column, justify="left" if not column else "right")
    for row in rows:
        for kind in ("measured", "simulated", "ratio"):
            head = (f"{row['load']:.0%}", f"{row['rps']:.3f}") if kind == "measured" else ("", "")
            table.add_row(*head, kind, *(f"{value:.3f}" for value in row[kind].values()))
    Console().print(table)


if __name__ == "__main__":
    typer.run(check)
