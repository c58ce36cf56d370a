"""A progress bar for each stage, on a terminal; nothing elsewhere."""

from __future__ import annotations

from collections import defaultdict
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

UNITS = {"semantic": "tokens", "coarse": "tokens", "fine": "passes", "codec": "pieces"}


class StageBars:
    """Shows (stage, segment, done, total) as four bars; a stage's segments add up in one.

    Semantic totals are limits: the model usually ends a segment sooner.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description:>9}"),
            BarColumn(bar_width=36),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}"),
            TextColumn("{task.fields[segments]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._num_segments = 1
        self._seen: dict[str, dict[int, tuple[int, int]]] = defaultdict(dict)

    def __enter__(self) -> StageBars:
        self._progress.start()
        for stage, unit in UNITS.items():
            self._tasks[stage] = self._progress.add_task(
                stage, total=0, start=False, unit=unit, segments=""
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __call__(self, stage: str, segment: int, done: int, total: int) -> None:
        """Take a report; from any thread."""
        if stage == "text":
            self._num_segments = total
            return
        seen = self._seen[stage]
        seen[segment] = (done, total)
        counts = list(seen.values())
        # segments that have not come yet are counted as long as those that have
        mean_total = sum(total for _, total in counts) / len(counts)
        self._progress.start_task(self._tasks[stage])
        self._progress.update(
            self._tasks[stage],
            completed=sum(done for done, _ in counts),
            total=mean_total * max(self._num_segments, len(counts)),
            segments=f"{len(counts)}/{self._num_segments} segments",
        )
