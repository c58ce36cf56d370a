"""Data made in parts, on several processes, each part of its own seed.

A part's file is written whole or not at all: an interrupted run goes on with the first missing.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


def make_parts(
    name: str, folder: Path, count: int, make: Callable[..., Arrays], given: tuple[Any, ...] = ()
) -> None:
    """Write part 0 … count - 1, each what `make(part, *given)` returns; print progress."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(_path(folder, i), make, i, given) for i in range(count)]
    jobs = [job for job in jobs if not job[0].exists()]
    began = time.monotonic()
    # Spawned, not forked: onnxruntime's threads do not survive a fork.
    with multiprocessing.get_context("spawn").Pool(min(8, os.cpu_count() or 1)) as pool:
        for done, _ in enumerate(pool.imap_unordered(_write, jobs), start=1):
            left = (time.monotonic() - began) / done * (len(jobs) - done)
            print(f"{name}: part {done} of {len(jobs)}, {left:.0f} s left", flush=True)


def part_paths(folder: Path) -> list[Path]:
    """Return the files there are, in order."""
    return sorted(folder.glob("part-*.npz"))


def _write(job: tuple[Path, Callable[..., Arrays], int, tuple[Any, ...]]) -> None:
    path, make, part, given = job
    draft = path.with_suffix(f".{os.getpid()}")
    with draft.open("wb") as file:
        np.savez(file, **dict[str, Any](make(part, *given)))
    draft.replace(path)


def _path(folder: Path, part: int) -> Path:
    return folder / f"part-{part:03}.npz"
