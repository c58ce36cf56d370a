"""Board: the one thing that all actors of a bulk job share.

It lets no more rows into the stages than may be under way, which bounds memory and what a kill can
cost; it knows what the stages run on, which is part of every id; and it is told how full they are.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from deployments.bulk.rows import STAGES

Json = dict[str, Any]
_DOORS: Final = ("semantic", "chained", "served")  # where rows come in
_MOST_TRIES: Final = 5
_SILENT_S: Final = 10.0  # an actor that has not been heard of for so long is gone


class Board:
    """An actor of its own, with coroutines as methods."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._inside: set[str] = set()
        self._begun: Counter[tuple[str, str]] = Counter()  # by stage and row
        self._changed = asyncio.Condition()
        self._classes: dict[str, str] = {}
        self._facts: dict[tuple[str, str], tuple[float, Json]] = {}
        self.most_inside = self.num_entered = 0
        self._first_unix_s: float | None = None  # when the first row began

    async def begin(self, stage: str, ids: Sequence[str]) -> list[str]:
        """Return when these rows may begin with a stage; say which must not, ever again.

        A row that begins again and again was under way in processes that died. One that did so
        too often is given up, with what was beside it, so that a job comes to its end.
        """
        if stage in _DOORS:
            await self._enter(ids)
        for row_id in ids:
            self._begun[stage, row_id] += 1
        return [row_id for row_id in ids if self._begun[stage, row_id] > _MOST_TRIES]

    async def _enter(self, ids: Sequence[str]) -> None:
        """Wait for room. Rows that are in already, of a lost try, stay in."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: not self._inside or len(self._inside.union(ids)) <= self._room
            )
            self.num_entered += len(set(ids) - self._inside)
            self._inside.update(ids)
            self._first_unix_s = self._first_unix_s or time.time()
            self.most_inside = max(self.most_inside, len(self._inside))

    async def leave(self, ids: Sequence[str]) -> None:
        """Make room: these rows are kept, or have failed."""
        async with self._changed:
            self._inside.difference_update(ids)
            self._changed.notify_all()
        for row_id in ids:
            for stage in (*_DOORS, *STAGES):
                self._begun.pop((stage, row_id), None)

    async def here(self, stage: str, actor: str, facts: Json) -> None:
        """Note what an actor of a stage is, and how full."""
        async with self._changed:
            self._facts[stage, actor] = (time.monotonic(), facts)
            self._classes[stage] = facts["device_class"]
            self._changed.notify_all()

    async def device_class(self) -> str:
        """Return what the four stages run on, as ids have it, once all of them are there."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._classes.keys() >= set(STAGES))
            return "+".join(sorted(set(self._classes.values())))

    async def facts(self) -> Json:
        """Return what goes on, by stage: actors, rows inside, and the share of slots at work."""
        oldest = time.monotonic() - _SILENT_S
        stages: dict[str, Json] = {}
        for (stage, _), (heard_s, facts) in self._facts.items():
            if heard_s >= oldest:
                found = stages.setdefault(stage, {"actors": 0, "rows": 0, "busy": 0.0, "pids": []})
                found["actors"] += 1
                found["rows"] += facts["rows"]
                found["busy"] += facts["busy"]
                found["pids"].append(facts["pid"])
        for found in stages.values():
            found["busy"] = round(found["busy"] / found["actors"], 3)
        return {
            "inside": len(self._inside),
            "most_inside": self.most_inside,
            "entered": self.num_entered,
            "first_unix_s": self._first_unix_s,
            "stages": stages,
        }
