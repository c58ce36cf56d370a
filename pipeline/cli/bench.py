"""`bark-serve bench`: how fast this machine speaks, beside transformers."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from pipeline.bench.suites import SUITES, settings_of
from pipeline.cli import options
from pipeline.cli.output import check_writable
from pipeline.errors import InvalidRequest
from pipeline.spec import PRECISIONS
from pipeline.store.local import replace_file

TABLE_WIDTH = 130  # where standard output is no terminal

EXAMPLES = """
Measure this machine, ours beside transformers on the same random weights.

A suite is a set of options that we publish results of; what is given beside it takes its place.
Prints tables, and as its last line one JSON document. The default suite takes about eight minutes
on two cores; most of them are transformers'.

Suites:

{suites}

Examples:

    bark-serve bench

    bark-serve bench --model nano --threads 1 --skip-transformers --profile

    bark-serve bench --suite scaling --output results.json --markdown results.md --plots .

    bark-serve bench --repeats 5 -o before.json    (change something, then)

    bark-serve bench --against before.json
"""


def bench(
    suite: Annotated[str, typer.Option(help=f"One of {', '.join(SUITES)}.")] = "transformers",
    size: Annotated[
        Literal["tiny", "bark-small", "bark"] | None,
        typer.Option(help="Shape of the model; the weights are random."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="A model with weights of its own, instead of --size."),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(min=0.05, help="Length of a clip; 10 s, or what the model can do at once."),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option("--precision", "-p", help="fp32, bf16 or int8, repeatable."),
    ] = None,
    concurrency: Annotated[
        list[int] | None, typer.Option(min=1, help="Requests at once, repeatable.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:N or auto.")] = None,
    backend: Annotated[str | None, typer.Option(help="native, torch, graph or auto.")] = None,
    slots: Annotated[
        int | None, typer.Option(min=1, help="Of each engine; as many as requests at once.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="For both sides; all that this process may use.")
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Of each measurement; the median counts.")
    ] = None,
    skip_transformers: Annotated[
        bool, typer.Option("--skip-transformers", help="Only ours: no ratios.")
    ] = False,
    transformers_precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"] | None,
        typer.Option(help="auto: fp32 on a CPU, fp16 on CUDA."),
    ] = None,
    static_batch: Annotated[
        int | None, typer.Option(min=2, help="Also measure transformers' own batch of N.")
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Also the same over HTTP, on a cluster on this machine.")
    ] = False,
    bulk: Annotated[
        int | None,
        typer.Option(min=1, help="Also so many rows as a bulk job, on a cluster on this machine."),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="An earlier report: measure as it did, and compare stage by stage."),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also show where each stage's time goes.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the JSON to this file.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Also write a page of results to this file.")
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(help="Also draw pictures (PNG) into this folder.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    from pipeline.bench import report as reporting
    from pipeline.bench.against import changes, check_comparable, earlier_report, settings_then
    from pipeline.bench.measure import ChildProcess, measure
    from pipeline.bench.plots import draw
    from pipeline.bench.sheets import change_sheet
    from pipeline.engine.native_gpt import default_num_threads

    if suite not in SUITES:
        raise InvalidRequest(f"--suite is one of {', '.join(SUITES)}, not {suite}.")
    if wrong := set(precision or ()) - set(PRECISIONS):
        raise InvalidRequest(f"--precision is one of {', '.join(PRECISIONS)}, not {min(wrong)}.")
    for path in (output, markdown, None if plots is None else plots / "plots"):
        if path is not None:
            check_writable(path)
    then = None if against is None else earlier_report(against)
    given = {
        "size": size,
        "model": model,
        "seconds": seconds,
        "precisions": tuple(dict.fromkeys(precision)) if precision else None,
        "concurrency": tuple(sorted(set(concurrency))) if concurrency else None,
        "device": device,
        "backend": backend,
        "slots": slots,
        "threads": threads,
        "repeats": repeats,
        "transformers": False if skip_transformers else None,
        "transformers_precision": transformers_precision,
        "static_batch": static_batch,
        "serve": True if serve else None,
        "bulk": bulk,
    }
    if then is not None:
        settings = settings_then(then, given)
    else:
        settings = settings_of(suite, **given | {"threads": threads or default_num_threads()})
    progress = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    report = measure(
        settings,
        ChildProcess(settings.threads, progress.print),
        progress.print,
        None if then is None else partial(check_comparable, then=then),
    )
    more = []
    if then is not None:
        found = list(changes(report, then))
        more.append(change_sheet(found, then))
        report["against"] = [{**asdict(change), "verdict": change.verdict} for change in found]
    document = json.dumps(report, allow_nan=False)
    if output is not None:
        replace_file(output, f"{document}\n".encode())
    stem = "bench" if markdown is None else markdown.stem
    drawn = [] if plots is None else [path.name for path in draw(report, plots, stem)]
    if markdown is not None:
        page = reporting.markdown(report, more=more, pictures=drawn)
        replace_file(markdown, page.encode())
    if not as_json:
        console = Console()
        if not console.is_terminal:
            console = Console(width=TABLE_WIDTH)
        reporting.print_report(console, report, profile=profile, more=more)
    print(document)


bench.__doc__ = EXAMPLES.format(
    suites="\n\n".join(f"    {name}: {about}" for name, about in SUITES.items())
)
