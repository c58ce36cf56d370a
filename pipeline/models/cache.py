"""The user's cache folder, and how folders and files appear in it: whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_folder() -> Path:
    """Return $XDG_CACHE_HOME/bark-serve, or ~/.cache/bark-serve; it may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "bark-serve"


def publish_folder(target: Path, fill: Callable[[Path], None]) -> Path:
    """Make a folder that other processes see complete or not at all.

    Args:
        fill: writes the content into the folder that it is given. Several processes may do so at
            once; the first one's folder stays, the others' are dropped.

    Returns:
        `target`.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        fill(draft)
        draft.chmod(0o755)  # mkdtemp makes it private
        try:
            draft.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def publish_file(target: Path, content: bytes) -> None:
    """Write a file that other processes see complete or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(draft).replace(target)
    finally:
        Path(draft).unlink(missing_ok=True)
