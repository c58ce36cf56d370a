"""What only has to be looked at: an engine, a queue; read once a second on a thread of its own.

An engine's step pays for a few additions and no metric; what is told of it is the difference
between two looks. Gauges have to be told again and again anyway.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from itertools import accumulate

from deployments import metrics
from deployments.metrics import STEP_BOUNDS, Counter
from pipeline.engine.async_engine import AsyncEngine
from pipeline.engine.turn_taker import AsyncTurnTaker

log = logging.getLogger(__name__)
_EVERY_S = 1.0

Key = tuple[Counter, tuple[tuple[str, str], ...]]  # a counter's one series


class Sums:
    """Adds to counters by how much sums have grown since they were last told."""

    def __init__(self) -> None:
        self._before: dict[Key, float] = {}

    def tell(self, now: dict[Key, float]) -> None:
        for key, value in now.items():
            counter, labels = key
            counter.add(value - self._before.get(key, 0.0), **dict(labels))
        self._before.update(now)


class Reporter:
    """Calls something once a second until it is closed, and once more then."""

    def __init__(self, report: Callable[[], None], every_s: float = _EVERY_S) -> None:
        self._report, self._every_s = report, every_s
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Report for the last time."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._closed.wait(self._every_s)
            try:
                self._report()
            except Exception:  # there will be another look
                log.exception("metrics are not reported")


class EngineMeter:
    """Tells what one replica's engine is at, and what it did since the last look.

    num_slots: None where each has its turn. Not thread-safe.
    """

    def __init__(
        self, stage: str, engine: AsyncEngine | AsyncTurnTaker, num_slots: int | None
    ) -> None:
        self._stage, self._engine, self._num_slots = stage, engine, num_slots
        self._sums = Sums()

    def report(self) -> None:
        stage, engine = self._stage, self._engine
        metrics.WAITING.set(engine.num_waiting, stage=stage)
        metrics.RUNNING.set(engine.num_running, stage=stage)
        metrics.HEARTBEAT_AGE.set(engine.thread.heartbeat_age_s, stage=stage)
        if self._num_slots is not None:
            metrics.SLOTS.set(self._num_slots, stage=stage)
        self._sums.tell(self._read())

    def _read(self) -> dict[Key, float]:
        """Return all that only grows. The engine goes on meanwhile: each is true by itself."""
        done, stage = self._engine.counters, ("stage", self._stage)
        found: dict[Key, float] = {
            (metrics.TOKENS, (stage,)): done.tokens,
            (metrics.BATCHED_ROWS, (stage,)): done.batched_rows,
            (metrics.DEVICE_SECONDS, (stage,)): self._engine.busy_s,
            (metrics.PREFILLED, (stage,)): done.prefilled_positions,
            (metrics.REUSED, (stage,)): done.reused_positions,
        }
        for outcome, count in done.ended.items():
            found[metrics.SEQUENCES, (stage, ("outcome", outcome))] = count
        for kind, times in (("prefill", done.prefills), ("decode", done.steps)):
            step, up_to = (stage, ("kind", kind)), list(accumulate(times.counts))
            found[metrics.STEP_SECONDS, step] = times.total_s
            found[metrics.STEPS, step] = up_to[-1]
            for bound, count in zip(STEP_BOUNDS, up_to, strict=True):
                found[metrics.STEP_BUCKETS, (*step, ("le", bound))] = count
        return found
