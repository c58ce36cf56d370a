"""A model's digest: one sha256 over the files that decide its output, computed once a file."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from pipeline.models.cache import cache_folder, publish_file


def digest_of(folder: Path, files: Iterable[Path]) -> str:
    """Return the sha256, in hex, over the sorted (relative name, size, sha256) of `files`.

    It follows the content alone: a copy of the folder elsewhere has the same digest.
    """
    total = hashlib.sha256()
    for name, file in sorted((file.relative_to(folder).as_posix(), file) for file in set(files)):
        total.update(f"{name}\0{file.stat().st_size}\0{_file_digest(file)}\n".encode())
    return total.hexdigest()


def _file_digest(file: Path) -> str:
    """Return a file's sha256, from the user's cache if path, size and mtime are unchanged."""
    stat = file.stat()
    key = json.dumps([str(file.resolve()), stat.st_size, stat.st_mtime_ns])
    entry = cache_folder() / "digests" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    try:
        known = json.loads(entry.read_text())
        if known["key"] == key:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    with contextlib.suppress(OSError):  # a read-only home: then once a process, not once for all
        publish_file(entry, json.dumps({"key": key, "sha256": digest}).encode())
    return digest
