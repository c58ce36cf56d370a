"""`bark-serve cost`: what the generations of a store cost."""

from __future__ import annotations

import json
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.table import Table

from pipeline.cli import options
from pipeline.errors import InvalidRequest

EXAMPLES = """Sum up the device-seconds of a store's generations, by voice, API key, day or model.

A generation is counted once, however often it was asked for: it was made once.

Examples:

    bark-serve cost --by voice

    bark-serve cost --by day --price 3.5 --data s3://bucket/bark     (3.5 a device-hour)
"""


def cost(
    by: Annotated[str, typer.Option(help="voice, key, day or model.")] = "voice",
    price: Annotated[float | None, typer.Option(min=0, help="Of a device for an hour.")] = None,
    data: options.Data = options.DEFAULT_DATA,
    as_json: options.AsJson = False,
) -> None:
    from pipeline.costs import STAGES, Kind, Sum, sum_up
    from pipeline.store import open_store

    if by not in get_args(Kind):
        raise InvalidRequest(f"--by is one of {', '.join(get_args(Kind))}, not {by!r}.")
    groups, whole = sum_up(open_store(data), by)  # type: ignore[arg-type]

    def facts(found: Sum) -> dict[str, float]:
        told: dict[str, float] = {
            "generations": found.generations,
            "audio_s": round(found.audio_s, 3),
            "device_s": round(found.total_s, 3),
            **{f"{stage}_s": round(found.device_s[stage], 3) for stage in STAGES},
        }
        return told if price is None else {**told, "price": round(found.price(price), 6)}

    if as_json:
        print(json.dumps({by: {k: facts(v) for k, v in groups.items()}, "total": facts(whole)}))
        return
    table = Table(box=None)
    table.add_column(by)
    for name in facts(whole):
        table.add_column(name.replace("_", " "), justify="right")
    for name, found in groups.items():
        table.add_row(name, *map(str, facts(found).values()))
    table.add_row("total", *map(str, facts(whole).values()), style="bold")
    Console().print(table)


cost.__doc__ = EXAMPLES
