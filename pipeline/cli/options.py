"""Options that several commands share, and the model that they name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="nano, a hub name (suno/bark-small), a folder, or s3://bucket/prefix.",
    ),
]
Revision = Annotated[str | None, typer.Option(help="Of a hub model: branch, tag or commit.")]
Tokenizer = Annotated[
    Path | None, typer.Option(help="vocab.txt or tokenizer.json, for a model that has none.")
]
DeviceName = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:N or auto.")]
PrecisionName = Annotated[
    str, typer.Option("--precision", "-p", help="fp32 (reference), bf16 or int8.")
]
Backend = Annotated[str, typer.Option(help="native, torch, graph or auto.")]
Data = Annotated[
    str,
    typer.Option("--data", help="The store of voices and generations: a folder or s3://bucket."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]

DEFAULT_DATA = "bark-data"
