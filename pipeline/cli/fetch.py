"""`bark-serve fetch`: bring a model into this machine's cache, and check which one it is."""

from __future__ import annotations

import json
import re
from typing import Annotated

import typer

from pipeline.cli import options
from pipeline.errors import InvalidCheckpoint, InvalidRequest

_DIGEST = re.compile(r"[0-9a-f]{64}")


def fetch(
    model: Annotated[
        str, typer.Argument(help="nano, a hub name, a folder, or s3://bucket/prefix.")
    ] = "nano",
    digest: Annotated[
        str | None, typer.Option(help="What the model's digest must be; exit 1 if it is not.")
    ] = None,
    revision: options.Revision = None,
    as_json: options.AsJson = False,
) -> None:
    """Fetch a model's files if they are not here yet, and print the model's digest.

    What runs before a service starts on a new machine: whoever loads the model afterwards finds it.

    Example: bark-serve fetch s3://weights/bark-small --digest 4f1c…
    """
    from pipeline.models.checkpoint import open_checkpoint
    from pipeline.models.locate import locate

    if digest is not None and not _DIGEST.fullmatch(digest):
        raise InvalidRequest(f"a digest is 64 hex digits in lower case, not {digest!r}")
    folder = locate(model, revision=revision)
    found = open_checkpoint(folder).digest
    if digest is not None and found != digest:
        raise InvalidCheckpoint(
            f"{model} is not what it should be: its digest is {found}, not {digest} ({folder})"
        )
    if as_json:
        print(json.dumps({"model": model, "folder": str(folder), "digest": found}))
        return
    print(f"{found}  {model}")
