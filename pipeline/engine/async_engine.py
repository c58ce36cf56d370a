"""The engine on its own thread, awaited from asyncio: submit, cancel, heartbeat, drain."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

from pipeline.engine.counters import Counters
from pipeline.engine.engine import Engine
from pipeline.engine.precedence import ASK_AGAIN_S
from pipeline.engine.sequence import Sequence
from pipeline.errors import BarkError, EngineFailed, Overloaded

_T = TypeVar("_T")


class _Work(Protocol):
    """What a device thread drives: an Engine, or a TurnTaker."""

    @property
    def has_work(self) -> bool: ...
    @property
    def waits(self) -> bool: ...
    def step(self) -> None: ...
    def fail_all(self, error: BarkError) -> None: ...


class DeviceThread:
    """One thread that steps one `_Work` while it has any. New work arrives through `post`."""

    def __init__(self, work: _Work, name: str) -> None:
        self._work = work
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self.is_closing = False
        self.failure: EngineFailed | None = None
        self._beat_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def heartbeat_age_s(self) -> float:
        """Seconds since the thread last showed life; small while idle, large when stuck."""
        return time.monotonic() - self._beat_s

    def post(self, add: Callable[[], None]) -> None:
        """Run `add` on the thread before its next step.

        Raises:
            EngineFailed: the engine has failed, or was closed.
        """
        with self._wake:
            if self.failure is not None:
                raise EngineFailed(self.failure.message) from self.failure
            if self.is_closing:
                raise EngineFailed("The engine is closed.")
            self._inbox.append(add)
            self._wake.notify()

    def close(self) -> None:
        """Stop after the step in flight; what has not finished gets EngineFailed."""
        with self._wake:
            self.is_closing = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._inbox or self._work.has_work or self.is_closing):
                    self._beat_s = time.monotonic()
                    self._wake.wait(timeout=ASK_AGAIN_S if self._work.waits else 1.0)
                arrived, self._inbox = self._inbox, deque()
                closing = self.is_closing
            for add in arrived:
                add()
            if closing:
                self._work.fail_all(EngineFailed("The engine was closed before this was done."))
                return
            if not self._work.has_work:
                continue  # what arrived has to wait for other processes, or was given up
            try:
                self._work.step()
            except (
                BaseException
            ) as error:  # the thread's outer edge: a device error ends the engine
                self._fail(error)
                return
            self._beat_s = time.monotonic()

    def _fail(self, error: BaseException) -> None:
        failure = error if isinstance(error, EngineFailed) else None
        if failure is None:
            failure = EngineFailed(f"The engine stopped: {type(error).__name__}: {error}")
            failure.__cause__ = error
        with self._wake:
            self.failure = failure
            arrived, self._inbox = self._inbox, deque()
        for add in arrived:
            add()
        self._work.fail_all(failure)


class AsyncEngine:
    """An `Engine` that many tasks and threads share.

    max_waiting: refuse sequences beyond so many that wait for a slot; None: they all wait.
    """

    def __init__(
        self, engine: Engine, *, name: str = "engine", max_waiting: int | None = None
    ) -> None:
        self._engine = engine
        self._max_waiting = max_waiting
        self._num_admitted = 0
        self.thread = DeviceThread(engine, name)

    @property
    def num_waiting(self) -> int:
        return len(self._engine.scheduler.waiting)

    @property
    def num_running(self) -> int:
        return len(self._engine.scheduler.running)

    @property
    def steps(self) -> int:
        """Decode steps and prefills so far."""
        return self._engine.steps

    @property
    def most_wasted_steps(self) -> int:
        """The most steps that any sequence had after it was cancelled or its time was out."""
        return self._engine.most_wasted_steps

    @property
    def busy_s(self) -> float:
        """Seconds that the device worked so far; what every request had of it adds up to this."""
        return self._engine.busy_s

    @property
    def counters(self) -> Counters:
        """What the engine did so far."""
        return self._engine.counters

    @property
    def backlog(self) -> int:
        """Tokens still to come, at most, for all that runs or waits."""
        scheduler = self._engine.scheduler
        pending = [*scheduler.waiting.copy(), *scheduler.running.copy().values()]
        return sum(s.params.max_tokens - len(s.tokens) for s in pending)

    async def run(self, sequence: Sequence) -> Sequence:
        """Submit a sequence and wait for its end. Cancelling the task frees the slot.

        Raises:
            Overloaded, DeadlineExceeded, Cancelled, EngineFailed.
        """
        if self._max_waiting is not None:
            # counted here, not in the scheduler, which has not seen the newest yet
            room = self._max_waiting + self._engine.runner.num_slots
            if self._num_admitted >= room:
                raise Overloaded("The engine's queue is full; try again later.")
        self._num_admitted += 1
        try:
            self.thread.post(lambda: self._engine.submit(sequence))
            return await awaited(sequence.result, sequence.cancel)
        finally:
            self._num_admitted -= 1

    def close(self) -> None:
        self.thread.close()


async def awaited(result: Future[_T], cancel: Callable[[], None]) -> _T:
    """Await a device thread's future; when the awaiting task is cancelled, cancel the work."""
    try:
        return await asyncio.wrap_future(result)
    except asyncio.CancelledError:
        cancel()
        raise
