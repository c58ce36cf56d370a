"""`make plan-check`: whether `bark-serve plan` tells the truth.

The real application on this machine, under requests at random moments, beside the simulation of
the same moments, with costs measured in the same run, before the requests and after them: a machine
that others share does not hold its speed, and what it did in between is best told by the mean.

All stages are on this machine's cores, so the simulation shares one device among them.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from random import Random
from statistics import fmean, median
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Table

from deployments.bench import free_port, local_config, speech_body
from deployments.serve_file import check_serve_config
from deployments.up import Cluster
from pipeline.bench.machine import machine_busy_s
from pipeline.bench.measure import ChildProcess, measure
from pipeline.bench.suites import Settings
from pipeline.bench.workload import Work, text
from pipeline.capacity.simulation import Arrival, Outcome, Pool, Simulation, poisson
from pipeline.capacity.stage_costs import STAGES, Costs, StageCost, costs_of
from pipeline.engine.native_gpt import default_num_threads
from pipeline.errors import EngineFailed

Json = dict[str, Any]
LEVELS = (1, 2, 4, 8)
SLOTS = max(LEVELS)
SERVICE_WEIGHT = 3.0
IDLE_REQUESTS = 40
QUIET_CORES = 0.15
ALLOWED = 0.2  # of what was measured
STEADY = 0.1  # beyond it, the bench after the requests was of another machine than that before
SEED = 7


def check(
    model: Annotated[str, typer.Option("--model", "-m")] = "nano",
    precision: Annotated[str, typer.Option("--precision", "-p")] = "fp32",
    seconds: Annotated[float, typer.Option(help="Sound of every request.")] = 4.0,
    load: Annotated[
        list[float] | None,
        typer.Option(help="Of what the plan says it can do at most, repeatable; 0.4 and 0.6."),
    ] = None,
    requests: Annotated[int, typer.Option(min=20, help="Of each load.")] = 150,
) -> None:
    """Print what was measured beside what was simulated; the last line is JSON.

    Exits with 1 where they differ by more than a fifth, and says so where the machine's own speed
    changed too much meanwhile to tell.
    """
    console = Console(stderr=True, highlight=False)
    threads = default_num_threads()
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
    with Served(model, precision, Work(**before["settings"]["work"])) as served:
        served.send([0.0] * SLOTS)  # warms all processes up
        idle_s = median(served.send([0.0])[0].took_s for _ in range(IDLE_REQUESTS))
        most = capacity(costs_of(before), added_by_service(costs_of(before), idle_s))
        sent = {}
        for part in load or (0.4, 0.6):
            rps = part * most
            console.print(
                f"  {requests} requests, {rps:.2f} a second: {requests / rps / 60:.0f} min"
            )
            sent[part] = served.send_at_random(rps, requests)
    after = bench()
    costs = mean_costs(costs_of(before), costs_of(after))
    added_s = added_by_service(costs, idle_s)
    console.print(f"alone {idle_s:.3f} s, of which the service {added_s:.3f} s")
    rows = [compare(part, answers, costs, added_s) for part, answers in sent.items()]
    show(rows)
    slower = {str(level): work_s(after, level) / work_s(before, level) for level in LEVELS}
    found = {"before": before, "after": after, "slower": slower, "idle_s": idle_s}
    print(json.dumps(found | {"added_s": added_s, "loads": rows}))
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


def added_by_service(costs: Costs, idle_s: float) -> float:
    """Return what an idle request takes beyond its stages, in seconds."""
    return idle_s - sum(costs.stages[stage].alone_s for stage in STAGES)


def wait_for_quiet(console: Console) -> None:
    """Wait until others leave the machine alone, for a minute at most."""
    for _ in range(30):
        before_s = machine_busy_s()
        time.sleep(2)
        now_s = machine_busy_s()
        if before_s is None or now_s is None or now_s - before_s < 2 * QUIET_CORES:
            return
    console.print("NOT a quiet machine: others keep it busy", style="red")


@dataclass(frozen=True, slots=True)
class Sent:
    """A request: when, in seconds since the first, and how long its answer took."""

    at_s: float
    took_s: float


class Served:
    """The application on a cluster of its own, one replica a stage; a client for it."""

    def __init__(self, model: str, precision: str, work: Work) -> None:
        self._work, self._sent = work, 0
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        port = free_port()
        args = {
            "model": {"name": model, "precision": precision},
            "engine": {"semantic_slots": SLOTS, "coarse_slots": SLOTS},
            "admission": {"max_running": 1000},
        }
        schema, _ = check_serve_config(local_config(port, args))
        self._cluster = Cluster(None, num_cpus=max(8, os.cpu_count() or 1), num_gpus=None)
        self._url = f"http://127.0.0.1:{port}"
        try:
            self._cluster.deploy(schema)
            for waiting in self._cluster.until_ready(self._url, threading.Event()):
                del waiting
        except BaseException:
            self._cluster.close()
            raise

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.close()

    def send(self, moments_s: Sequence[float]) -> list[Sent]:
        """Send a request at each moment, and wait for all answers."""
        return asyncio.run(self._send(moments_s))

    def send_at_random(self, rps: float, requests: int) -> list[Sent]:
        """Send so many requests at random moments (Poisson), `rps` a second."""
        arrivals = islice(poisson(rps, [((),)], Random(SEED)), requests)
        return self.send([arrival.at_s for arrival in arrivals])

    async def _send(self, moments_s: Sequence[float]) -> list[Sent]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self._url, timeout=600, limits=limits) as client:
            began = time.perf_counter() - moments_s[0]

            async def one(moment_s: float, number: int) -> Sent:
                await asyncio.sleep(began + moment_s - time.perf_counter())
                sent = time.perf_counter()
                body = speech_body(number, text(number), self._work)
                answer = await client.post("/v1/audio/speech", json=body)
                if answer.status_code != 200:
                    raise EngineFailed(f"HTTP {answer.status_code}")
                return Sent(sent - began, time.perf_counter() - sent)

            first, self._sent = self._sent, self._sent + len(moments_s)
            return await asyncio.gather(*(one(m, first + n) for n, m in enumerate(moments_s)))


def simulate(costs: Costs, added_s: float, moments_s: Sequence[float]) -> Outcome:
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
        )
        for stage, cost in costs.stages.items()
    ]
    # what the service adds is work too, but each of its processes has one thread for it, which
    # mostly sleeps and so gets a core soon after it wakes
    demand = 1 / default_num_threads()
    pools.insert(0, Pool("service", 1, float, shares=True, demand=demand, weight=SERVICE_WEIGHT))
    segment = (max(added_s, 1e-6), *(costs.stages[stage].alone_s for stage in STAGES))
    arrivals = [Arrival(at_s, (segment,)) for at_s in moments_s]
    return Simulation(pools, Random(SEED)).run(arrivals)


def capacity(costs: Costs, added_s: float) -> float:
    """Return the requests a second that one device can do at most."""
    least_s = sum(s.demand * s.alone_s / s.best_gain for s in costs.stages.values())
    return 1.0 / (least_s + added_s / default_num_threads())


def compare(part: float, answers: Sequence[Sent], costs: Costs, added_s: float) -> Json:
    """Return what came of the requests beside what was to be expected."""
    requests = len(answers)
    outcome = simulate(costs, added_s, [answer.at_s for answer in answers])
    took_s = sorted(answer.took_s for answer in answers)
    last_s = max(answer.at_s + answer.took_s for answer in answers)
    measured = {
        "throughput": requests / (last_s - answers[0].at_s),
        "p50_s": took_s[int(0.5 * requests)],
        "p95_s": took_s[int(0.95 * requests)],
    }
    simulated = {
        "throughput": outcome.throughput,
        "p50_s": outcome.quantile(0.5),
        "p95_s": outcome.quantile(0.95),
    }
    return {
        "load": part,
        "rps": requests / (answers[-1].at_s - answers[0].at_s),
        "requests": requests,
        "measured": measured,
        "simulated": simulated,
        "ratio": {key: simulated[key] / measured[key] for key in measured},
        "answers": [[round(answer.at_s, 4), round(answer.took_s, 4)] for answer in answers],
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
