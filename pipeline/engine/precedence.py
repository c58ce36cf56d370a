"""Precedence: who goes first on a device that several processes share.

Work of low priority waits while any other is at work on the device, in whatever process: on one
machine's CPU all stages are such processes. Those with other work share a lock on a file, and a
process that has only low work looks, before each step, if anyone holds it. The kernel lets go of
the lock of a process that dies, so nobody has to be told, and nothing can be forgotten.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Final

# A request is between two stages for some milliseconds; low work that began a step meanwhile
# would make it wait. And so often low work that waits asks again.
_LINGER_S: Final = 0.05
ASK_AGAIN_S: Final = 0.01


class Precedence:
    """One process's part in it. For the thread that steps the device.

    Args:
        name: of the device; processes that use one name share it. folder: where its file lies.
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        import fcntl  # Windows has none; there are no clusters on Windows either

        self._fcntl = fcntl
        folder = Path(tempfile.gettempdir()) if folder is None else folder
        path = folder / f"bark-{os.getuid()}-{name}.lock"
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._is_held = False
        self._until_s: float | None = None

    def claim(self) -> None:
        """Hold back low work everywhere: there is other work here."""
        self._until_s = None
        if not self._is_held:
            self._fcntl.flock(self._file, self._fcntl.LOCK_SH)
            self._is_held = True

    def yield_soon(self) -> None:
        """Let go, in a moment: the last of the other work has ended."""
        if self._is_held and self._until_s is None:
            self._until_s = time.monotonic() + _LINGER_S

    def low_may_run(self) -> bool:
        """Say whether no process has other work on the device."""
        if self._until_s is not None and time.monotonic() >= self._until_s:
            self._until_s, self._is_held = None, False
            self._fcntl.flock(self._file, self._fcntl.LOCK_UN)
        if self._is_held:
            return False
        try:
            self._fcntl.flock(self._file, self._fcntl.LOCK_EX | self._fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self._fcntl.flock(self._file, self._fcntl.LOCK_UN)
        return True

    @property
    def asks_again(self) -> bool:
        """Say whether a lock is still to be let go of."""
        return self._until_s is not None
