"""Where a command's sound goes: check the place before the work; play a file."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from pipeline.errors import InvalidRequest, StoreUnavailable

PLAYERS = (
    ("ffplay", "-nodisp", "-autoexit", "-loglevel", "error"),
    ("afplay",),
    ("paplay",),
    ("aplay", "-q"),
)


def check_writable(path: Path) -> None:
    """Find out before the work, not after it, that a file can not be written here.

    Raises:
        InvalidRequest: no such folder, or the path is a folder itself.
        StoreUnavailable: the folder can not be written.
    """
    if path.is_dir():
        raise InvalidRequest(f"{path} is a folder; give a file name.")
    if not path.parent.is_dir():
        raise InvalidRequest(f"there is no folder {path.parent}; make it first.")
    if not os.access(path.parent, os.W_OK):
        raise StoreUnavailable(f"can not write in {path.parent}.")


def find_player() -> tuple[str, ...]:
    """Return the command of the first player that this machine has.

    Raises:
        InvalidRequest: there is none.
    """
    for command in PLAYERS:
        if shutil.which(command[0]):
            return command
    names = ", ".join(command[0] for command in PLAYERS)
    raise InvalidRequest(f"--play found no player; install one of {names}.")


def play(sound: bytes, suffix: str) -> None:
    """Play an audio file's bytes; `suffix` says of which format."""
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(sound)
        file.flush()
        subprocess.run([*find_player(), file.name], check=False)
