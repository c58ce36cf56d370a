"""`bark-serve plan`: how many replicas and device-hours a load needs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from pipeline.cli import options
from pipeline.errors import InvalidRequest

if TYPE_CHECKING:
    from pipeline.capacity.plan import Plan
    from pipeline.capacity.stage_costs import Costs

RUNNING_IN_ONE_INGRESS = 64  # admission.max_running, as it is by default
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}

EXAMPLES = """
Plan the four pools: the least replicas with which requests at this rate are answered in time.

Simulates every request and every batch, with what `bark-serve bench` measured on the device that
you serve with. Measure first:

    bark-serve bench -m suno/bark -p bf16 --seconds 13 --concurrency 1 --concurrency 8 --concurrency 16 --skip-transformers --serve --output costs.json

Examples:

    bark-serve plan --rps 40 --audio-seconds 10 --p95 30 --costs costs.json

    bark-serve plan --rps 5 --audio-seconds 4 --audio-seconds 60 --p95 90 --first-audio-p95 20 --price 3.5 --costs costs.json

    bark-serve plan --rps 2 --audio-seconds 10 --p95 30 --replicas semantic=2,coarse=9,fine=3,codec=1 --costs costs.json     (what would these do?)
"""  # noqa: E501


def plan(
    rps: Annotated[
        float, typer.Option(min=1e-6, help="Requests a second, at random moments (Poisson).")
    ],
    audio_seconds: Annotated[
        list[float],
        typer.Option(min=0.05, help="Sound of a request; repeatable: each is as likely."),
    ],
    p95: Annotated[
        float, typer.Option(min=0, help="Seconds within which 95 % of requests are answered whole.")
    ],
    costs: Annotated[
        Path,
        typer.Option(help="What bark-serve bench --output wrote, on the device to serve with."),
    ] = Path("costs.json"),
    first_audio_p95: Annotated[
        float | None, typer.Option(min=0, help="Likewise, for the first segment's sound.")
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(min=1, help="Of each semantic and coarse replica; as many as were measured."),
    ] = None,
    segment_seconds: Annotated[
        float, typer.Option(min=0.05, help="Longest segment that a text is split into.")
    ] = 13.0,
    whole: Annotated[
        bool, typer.Option("--whole", help="Jobs: all segments at once, nobody listens meanwhile.")
    ] = False,
    layout: Annotated[
        Literal["pools", "together"],
        typer.Option(help="Each stage on devices of its own, or all four on every device."),
    ] = "pools",
    max_load: Annotated[
        float, typer.Option(min=0.05, max=0.99, help="Part of a pool's throughput to use at most.")
    ] = 0.8,
    replicas: Annotated[
        str | None,
        typer.Option(help="Search nothing: what do these do? semantic=2,coarse=8,fine=3,codec=1."),
    ] = None,
    price: Annotated[float | None, typer.Option(min=0, help="Of a device for an hour.")] = None,
    burst: Annotated[
        float, typer.Option(min=1, help="max_replicas over min_replicas, in the settings printed.")
    ] = 1.5,
    requests: Annotated[
        int, typer.Option(min=100, help="Simulated at least in the last run.")
    ] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="The same gives the same plan.")] = 0,
    as_json: options.AsJson = False,
) -> None:
    from pipeline.capacity.plan import Demand, Planner
    from pipeline.capacity.stage_costs import read_costs

    measured = read_costs(costs, slots)
    demand = Demand(
        rps=rps,
        audio_s=tuple(audio_seconds),
        p95_s=p95,
        first_audio_p95_s=first_audio_p95,
        segment_s=segment_seconds,
        is_streamed=not whole,
        max_load=max_load,
    )
    progress = Console(stderr=True, highlight=False)
    with progress.status("simulating") as status:
        planner = Planner(
            measured, demand, layout=layout, requests=requests, seed=seed, note=status.update
        )
        found = planner.search() if replicas is None else planner.try_out(_replicas(replicas))
    if as_json:
        print(json.dumps(_document(found, measured, price, burst), allow_nan=False))
    else:
        _show(found, measured, price, burst)
    if not found.meets:
        raise typer.Exit(1)


plan.__doc__ = EXAMPLES


def _replicas(given: str) -> dict[str, int]:
    from pipeline.capacity.stage_costs import STAGES

    try:
        found = {
            name.strip(): int(count)
            for name, _, count in (part.partition("=") for part in given.split(","))
        }
    except ValueError:
        found = {}
    if set(found) != set(STAGES) or min(found.values()) < 1:
        raise InvalidRequest(
            f"--replicas is {','.join(f'{stage}=1' for stage in STAGES)} with your numbers, "
            f"not {given!r}"
        )
    return {stage: found[stage] for stage in STAGES}


def _serve_settings(found: Plan, measured: Costs, burst: float) -> dict[str, Any]:
    """Return what of `serve_config.yaml`'s application the plan decides."""
    from pipeline.capacity.stage_costs import BATCHED

    def scaling(least: int, ongoing: float) -> dict[str, Any]:
        most = math.ceil(least * burst)
        # at this load a replica has so many: Serve then neither adds nor takes away
        target = max(1.0, round(ongoing, 1))
        return {"min_replicas": least, "max_replicas": most, "target_ongoing_requests": target}

    doors = math.ceil(found.outcome.in_flight / RUNNING_IN_ONE_INGRESS)
    pools = {"Ingress": scaling(doors, RUNNING_IN_ONE_INGRESS)} | {
        f"{stage.capitalize()}Stage": scaling(count, found.outcome.pools[stage].ongoing)
        for stage, count in found.replicas.items()
    }
    return {
        "args": {"engine": {f"{stage}_slots": measured.stages[stage].slots for stage in BATCHED}},
        "deployments": [
            {"name": name, "autoscaling_config": config} for name, config in pools.items()
        ],
    }


def _document(found: Plan, measured: Costs, price: float | None, burst: float) -> dict[str, Any]:
    """Return the plan for scripts; `serve_config` is what of that file it decides."""

    def times(*, first: bool) -> dict[str, float]:
        return {name: round(found.seconds(q, first=first), 4) for name, q in QUANTILES.items()}

    hours = {"an_hour": found.devices, "an_audio_hour": found.device_hours_per_audio_hour}
    return {
        "meets": found.meets,
        "replicas": found.replicas,
        "layout": found.layout,
        "total_s": times(first=False),
        "first_audio_s": times(first=True),
        "device_hours": hours,
        "price": None if price is None else {key: value * price for key, value in hours.items()},
        "requests_simulated": len(found.outcome.answers),
        "most_in_flight": found.outcome.in_flight,
        "pools": {
            stage: {
                "load": round(found.loads[stage], 4),
                "busy": round(use.busy, 4),
                "ongoing": round(use.ongoing, 3),
                "alone_s": round(use.alone_s, 4),
                "visit_s": round(use.visit_s, 4),
            }
            for stage, use in found.outcome.pools.items()
        },
        "measured_on": measured.measured_on,
        "serve_config": _serve_settings(found, measured, burst),
    }


def _show(found: Plan, measured: Costs, price: float | None, burst: float) -> None:
    console = Console(highlight=False)
    console.print(f"costs of {measured.measured_on}", soft_wrap=True)
    table = Table(box=None)
    for column in ("pool", "replicas", "load", "busy", "ongoing each", "alone s", "at this load s"):
        table.add_column(column, justify="left" if column == "pool" else "right")
    for stage, use in found.outcome.pools.items():
        table.add_row(
            stage,
            str(found.replicas[stage]),
            f"{found.loads[stage]:.0%}",
            f"{use.busy:.0%}",
            f"{use.ongoing:.1f}",
            f"{use.alone_s:.3g}",
            f"{use.visit_s:.3g}",
        )
    console.print(table)
    demand = found.demand
    asked = {False: demand.p95_s, True: demand.first_audio_p95_s}
    for first, name in ((False, "whole"), (True, "first sound")):
        times = ", ".join(
            f"{n} {found.seconds(q, first=first):.3g} s" for n, q in QUANTILES.items()
        )
        wanted = "" if asked[first] is None else f"  (p95 asked for: {asked[first]:g} s)"
        console.print(f"{name:<12} {times}{wanted}")
    per_hour, per_audio_hour = found.devices, found.device_hours_per_audio_hour
    cost = f"{per_hour} device-hours an hour, {per_audio_hour:.3g} an hour of sound"
    if price is not None:
        cost += f"; costs {per_hour * price:.5g} and {per_audio_hour * price:.3g}"
    console.print(cost)
    count = len(found.outcome.answers)
    console.print(f"of {count} simulated requests; {found.outcome.in_flight} at once at most")
    if not found.meets:
        console.print("[red]too few replicas: not answered in time[/]")
    console.print("\nin serve_config.yaml, under the application:", style="bold")
    for line in _yaml(_serve_settings(found, measured, burst)):
        console.print(line, markup=False, soft_wrap=True)


def _yaml(settings: dict[str, Any]) -> list[str]:
    """Write the settings as YAML, which has JSON in it; PyYAML comes only with the service."""
    return [
        "args:",
        f"  engine: {json.dumps(settings['args']['engine'])}",
        "deployments:",
        *(
            line
            for deployment in settings["deployments"]
            for line in (
                f"  - name: {deployment['name']}",
                f"    autoscaling_config: {json.dumps(deployment['autoscaling_config'])}",
            )
        ),
    ]
