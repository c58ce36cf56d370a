"""A model's name → the local folder that holds it, fetched if need be.

Names: `nano`, a folder, `owner/name` on the Hugging Face hub, `s3://bucket/prefix`. What is in
the folder is `checkpoint`'s business.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from pipeline.errors import InvalidCheckpoint

NANO: Final = "nano"
_NANO_FOLDER: Final = Path(__file__).with_name("nano")  # in the wheel; `make nano` writes it

_FORMS = (
    "a model is `nano`, a folder, `owner/name` on the Hugging Face hub (suno/bark-small) or "
    "`s3://bucket/prefix`"
)
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def locate(
    model: str,
    *,
    revision: str | None = None,
    offline: bool | None = None,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> Path:
    """Return the local folder of a model; blocks while files are fetched.

    Args:
        model: one of the forms above. A folder of that name comes before the hub.
        revision: a hub model's branch, tag or commit.
        offline: True uses only what was fetched before; None leaves it to HF_HUB_OFFLINE.
        cache_dir: instead of the user's cache (for hub models: Hugging Face's).
        progress: show a bar on a terminal.

    Raises:
        InvalidCheckpoint: no such model, or it can not be fetched; says what to run.
    """
    name = model.strip()
    if revision is not None and (name == NANO or name.startswith("s3://") or Path(name).is_dir()):
        raise InvalidCheckpoint(
            f"revision {revision} was given for {name}: only models on the Hugging Face hub have "
            "revisions; leave it out"
        )
    if name == NANO:
        return _NANO_FOLDER
    if name.startswith("s3://"):
        from pipeline.models.bucket_model import mirror_bucket

        return mirror_bucket(name, offline=bool(offline), cache_dir=cache_dir, progress=progress)
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return folder
    if folder.is_file():
        raise InvalidCheckpoint(f"{folder} is a file: give the folder that holds it; {_FORMS}")
    if _HUB_NAME.fullmatch(name) and not name.startswith(("./", "../")):
        from pipeline.models.hub_model import fetch_snapshot

        return fetch_snapshot(
            name, revision=revision, offline=bool(offline), cache_dir=cache_dir, progress=progress
        )
    raise InvalidCheckpoint(f"there is no model or folder {model!r}: {_FORMS}")


def preset_fetcher(model: str, folder: Path) -> Callable[[str], Path] | None:
    """Return what brings one more voice preset into `folder`, for a model from the hub."""
    if model == NANO or Path(model).is_dir() or not _HUB_NAME.fullmatch(model):
        return None
    from pipeline.models.hub_model import fetch_preset

    return partial(fetch_preset, model, folder)
