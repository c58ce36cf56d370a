"""`bark-serve verify`: make a sound again and compare."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipeline.cli import options

MARKS = {"same": "[green]✓[/]", "differs": "[red]✗[/]", "absent": "[yellow]–[/]"}
EXAMPLES = """Make a sound again from its manifest, and compare.

Exit code 0: it came out the same, sample by sample. 1: it did not, or it is not known here, or it
was changed since it was signed; the lines say what differs.

Examples:

    bark-serve verify hello.wav

    bark-serve verify 4f1c… --data s3://bucket/bark

    bark-serve verify fast.mp3 --speed 1.5
"""


def verify(
    target: Annotated[str, typer.Argument(help="A file, or the id of a generation or a job.")],
    data: options.Data = options.DEFAULT_DATA,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Instead of the manifest's own.")
    ] = None,
    speed: Annotated[float, typer.Option(min=0.25, max=4.0, help="The file was made with.")] = 1.0,
    anchors: Annotated[
        Path | None,
        typer.Option("--c2pa-anchors", help="PEM file: whose signatures are trusted."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    from pipeline.store import open_store
    from pipeline.verification import verify_file, verify_id

    console, store = Console(stderr=True, highlight=False), open_store(data)
    trusted = None if anchors is None else anchors.read_bytes()
    with console.status("making it again"):
        path = Path(target)
        if path.is_file():
            given = path.read_bytes()
            report = verify_file(given, store, model=model, speed=speed, anchors=trusted)
        else:
            report = verify_id(target, store, model=model, anchors=trusted)
    if as_json:
        print(json.dumps(asdict(report)))
    else:
        out = Console(highlight=False)
        for finding in report.findings:
            detail = finding.detail.replace("[", "\\[")
            out.print(f"{MARKS[finding.state]} {finding.subject:<16} {detail}", soft_wrap=True)
        out.print("verified" if report.is_verified else "NOT verified", style="bold")
    if not report.is_verified:
        raise typer.Exit(1)


verify.__doc__ = EXAMPLES
