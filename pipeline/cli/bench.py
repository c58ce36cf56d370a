"""`bark-serve bench`: how fast this machine speaks, beside transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from pipeline.cli import options
from pipeline.cli.output import check_writable
from pipeline.errors import InvalidRequest
from pipeline.spec import PRECISIONS
from pipeline.store.local import replace_file

TABLE_WIDTH = 130  # where standard output is no terminal

EXAMPLES = """
Measure this machine, ours beside transformers on the same random weights.

Prints tables, and as its last line one JSON document. The default takes about eight minutes on
two cores; most of them are transformers'.

Examples:

    bark-serve bench

    bark-serve bench --model nano --threads 1 --skip-transformers --profile

    bark-serve bench --full --output results.json --markdown results.md
"""


def bench(
    size: Annotated[
        Literal["tiny", "bark-small", "bark"],
        typer.Option(help="Shape of the model; the weights are random."),
    ] = "bark-small",
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
        typer.Option(
            "--precision", "-p", help="fp32, bf16 or int8, repeatable; all where none is given."
        ),
    ] = None,
    concurrency: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Requests at once, repeatable; 1 and 8 where none is given."),
    ] = None,
    full: Annotated[
        bool,
        typer.Option("--full", help="1, 4, 8 and 16 at once, and transformers' own batch of 8."),
    ] = False,
    device: options.DeviceName = "auto",
    backend: options.Backend = "auto",
    slots: Annotated[
        int | None, typer.Option(min=1, help="Of each engine; as many as requests at once.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="For both sides; all that this process may use.")
    ] = None,
    repeats: Annotated[
        int, typer.Option(min=1, help="Clips of one request; the median counts.")
    ] = 1,
    skip_transformers: Annotated[
        bool, typer.Option("--skip-transformers", help="Only ours: no ratios.")
    ] = False,
    transformers_precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        typer.Option(help="auto: fp32 on a CPU, fp16 on CUDA."),
    ] = "auto",
    static_batch: Annotated[
        int | None, typer.Option(min=2, help="Also measure transformers' own batch of N.")
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Also the same over HTTP, on a cluster on this machine.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also show where each stage's time goes.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the JSON to this file.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Also write a page of results to this file.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    from pipeline.bench import report as reporting
    from pipeline.bench.suite import ChildProcess, Settings, measure
    from pipeline.engine.native_gpt import default_num_threads

    if wrong := set(precision or ()) - set(PRECISIONS):
        raise InvalidRequest(f"--precision is one of {', '.join(PRECISIONS)}, not {min(wrong)}.")
    for path in (output, markdown):
        if path is not None:
            check_writable(path)
    threads = threads or default_num_threads()
    if not concurrency:
        concurrency = [1, 4, 8, 16] if full else [1, 8]
    settings = Settings(
        size=size,
        model=model,
        seconds=seconds,
        precisions=tuple(dict.fromkeys(precision or PRECISIONS)),
        concurrency=tuple(sorted(set(concurrency))),
        device=device,
        backend=backend,
        slots=slots,
        threads=threads,
        repeats=repeats,
        transformers=not skip_transformers,
        transformers_precision=transformers_precision,
        static_batch=static_batch or (8 if full else None),
        serve=serve,
    )
    progress = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    report = measure(settings, ChildProcess(threads, progress.print), progress.print)
    document = json.dumps(report, allow_nan=False)
    if output is not None:
        replace_file(output, f"{document}\n".encode())
    if markdown is not None:
        replace_file(markdown, reporting.markdown(report).encode())
    if not as_json:
        console = Console()
        if not console.is_terminal:
            console = Console(width=TABLE_WIDTH)
        reporting.print_report(console, report, profile=profile)
    print(document)


bench.__doc__ = EXAMPLES
