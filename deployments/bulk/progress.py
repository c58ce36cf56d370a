"""How far a bulk job is: a bar for people, JSON lines for machines."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from deployments.bulk.rows import STAGES, Json, Work

_EVERY_S: Final = 1.0
_LINE_EVERY_S: Final = 10.0  # where nobody watches
_PACE_S: Final = 60.0  # over which the pace is taken


class BulkProgress:
    """Counts rows as they end, and shows it; a context manager.

    total, done: rows of the job, and those of earlier runs among them.
    facts: asks the board; called on a thread of its own. write: takes the states, in place of
    a terminal.
    """

    def __init__(
        self,
        total: int,
        done: int,
        console: Console,
        facts: Callable[[], Json | None],
        write: Callable[[Json], None] | None,
    ) -> None:
        self._total, self._before = total, done
        self._console, self._facts, self._write = console, facts, write
        self._began_s = time.monotonic()
        self.rows = self.errors = self.made = 0
        self.audio_s = self.device_s = 0.0
        self._paces: list[tuple[float, int, float]] = [(self._began_s, 0, 0.0)]
        self._board: Json = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)
        self._live: Live | None = None
        self._said_s = 0.0

    def __enter__(self) -> BulkProgress:
        if self._console.is_terminal and self._write is None:
            self._live = Live(self._view(), console=self._console, refresh_per_second=4)
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(2 * _EVERY_S)
        if self._live is not None:
            self._live.update(self._view())
            self._live.stop()

    def add(self, works: list[Work]) -> None:
        """Count rows that have ended."""
        for work in works:
            assert work.end is not None
            self.rows += 1
            if work.end["status"] == "ok":
                self.audio_s += work.end["seconds"]
                self.device_s += work.end["device_seconds"]
            else:
                self.errors += 1

    def state(self) -> Json:
        """Return everything that is shown, for programs."""
        now_s = time.monotonic()
        self._paces = [p for p in self._paces if now_s - p[0] < _PACE_S] or self._paces[-1:]
        then_s, rows, audio_s = self._paces[0]
        span_s = max(1e-6, now_s - then_s)
        pace = (self.rows - rows) / span_s
        self._paces.append((now_s, self.rows, self.audio_s))
        left = self._total - self._before - self.rows
        return {
            "event": "progress",
            "rows": self._before + self.rows,
            "total": self._total,
            "errors": self.errors,
            "audio_seconds": round(self.audio_s, 3),
            "audio_seconds_per_second": round((self.audio_s - audio_s) / span_s, 3),
            "rows_per_second": round(pace, 3),
            "seconds": round(now_s - self._began_s, 3),
            "seconds_left": round(left / pace, 1) if pace > 0 else None,
            "in_flight": self._board.get("inside", 0),
            "entered": self._board.get("entered", 0),
            "stages": self._board.get("stages", {}),
        }

    def _watch(self) -> None:
        while not self._stop.wait(_EVERY_S):
            with suppress(Exception):  # the board may be gone; that is not for us to report
                self._board = self._facts() or self._board
            if self._live is not None:
                self._live.update(self._view())
            elif self._write is not None:
                self._write(self.state())
            elif time.monotonic() - self._said_s > _LINE_EVERY_S:
                self._said_s = time.monotonic()
                print(self._line(self.state()), file=sys.stderr, flush=True)

    def _line(self, state: Json) -> str:
        left = state["seconds_left"]
        return (
            f"{state['rows']} of {state['total']} rows, {state['errors']} errors, "
            f"{state['audio_seconds_per_second']:.2f} s of sound a second, "
            f"{_clock(left)} left; {_occupancy(state)}"
        )

    def _view(self) -> Table:
        state = self.state()
        bar = Progress(
            TextColumn("rows"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[more]}"),
            console=self._console,
        )
        more = (
            f"{state['errors']} errors   "
            f"{state['audio_seconds_per_second']:.2f} s of sound a second   "
            f"{_clock(state['seconds_left'])} left"
        )
        bar.add_task("rows", total=state["total"], completed=state["rows"], more=more)
        view = Table.grid()
        view.add_row(bar.get_renderable())
        view.add_row(_occupancy(state), style="dim")
        return view


def _occupancy(state: Json) -> str:
    stages: dict[str, Any] = state["stages"]
    parts = [
        f"{name} {found['busy']:.0%} of {found['actors']}"
        for name in STAGES
        if (found := stages.get(name))
    ]
    return "   ".join(parts) or "waiting for the stages"


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
