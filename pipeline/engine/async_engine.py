"""The engine on its own thread, awaited from asyncio: submit, cancel, heartbeat, drain.

Also the turn-taker for the stages without a KV cache (fine, codec): their jobs are generators of
device steps, run round robin on one thread, so that none starves and each can end between steps.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from pipeline.engine.counters import Counters, Outcome
from pipeline.engine.engine import Engine
from pipeline.engine.precedence import ASK_AGAIN_S, Precedence
from pipeline.engine.sequence import Sequence
from pipeline.errors import BarkError, Cancelled, DeadlineExceeded, EngineFailed, Overloaded

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
            return await _await(sequence.result, sequence.cancel)
        finally:
            self._num_admitted -= 1

    def close(self) -> None:
        self.thread.close()


@dataclass(slots=True, eq=False)
class Job:
    """A run of device steps.

    steps: yields for each how long it had the device, in seconds; returns the result.
    size: frames, for whoever asks how much is left to do.
    """

    steps: Generator[float, None, Any]
    deadline_s: float | None = None
    result: Future[Any] = field(default_factory=Future)
    is_cancelled: bool = False
    device_s: float = 0.0
    size: int = 0
    is_low: bool = False  # it waits while there are others
    wasted_steps: int = 0  # that it had, or had begun, when it was given up

    def cancel(self) -> None:
        self.is_cancelled = True

    def is_given_up(self, now_s: float) -> bool:
        """Say whether nobody waits for it any longer."""
        return self.is_cancelled or (self.deadline_s is not None and now_s > self.deadline_s)


class TurnTaker:
    """Runs jobs round robin, one device step of each in turn."""

    def __init__(self, precedence: Precedence | None = None) -> None:
        self.jobs: deque[Job] = deque()
        self._precedence = precedence
        self.steps = self.most_wasted_steps = 0
        self.busy_s = 0.0  # how long the device worked: the sum over all jobs
        self.counters = Counters()

    @property
    def has_other(self) -> bool:
        """Say whether there is work that is not of low priority."""
        return not all(job.is_low for job in self.jobs)

    @property
    def has_work(self) -> bool:
        """Say whether a step would do something: work of low priority may have to wait."""
        if not self.jobs or self._precedence is None or self.has_other:
            return bool(self.jobs)
        return self._precedence.low_may_run()

    @property
    def waits(self) -> bool:
        """Say whether `has_work` may become true by itself, or something is to be let go of."""
        if self._precedence is None:
            return False
        if self._precedence.asks_again:
            self._precedence.low_may_run()  # lets go, when it is time
        return self._precedence.asks_again or bool(self.jobs)

    def submit(self, job: Job) -> None:
        """Queue a job, unless its caller has gone already."""
        if job.result.set_running_or_notify_cancel():
            self.jobs.append(job)
            if self._precedence is not None and not job.is_low:
                self._precedence.claim()
        else:
            self.counters.ended["cancelled"] += 1

    def step(self) -> None:
        if not self.jobs:
            return  # what arrived was given up before it got here
        if self.has_other:
            while self.jobs[0].is_low:
                self.jobs.rotate(-1)
        self._step(self.jobs.popleft())
        if self._precedence is not None and not self.has_other:
            self._precedence.yield_soon()

    def _step(self, job: Job) -> None:
        if job.is_cancelled:
            return self._fail(job, Cancelled("The request was cancelled."), "cancelled")
        if job.deadline_s is not None and time.monotonic() > job.deadline_s:
            late = DeadlineExceeded("The request's time ran out before it was done.")
            return self._fail(job, late, "late")
        self.steps += 1
        began_s = time.monotonic()
        try:
            took_s = next(job.steps)
        except StopIteration as end:
            self.counters.tokens += job.size
            self.counters.ended["finished"] += 1
            job.result.set_result(end.value)
            return None
        except BarkError as error:
            return self._fail(job, error, "failed")
        except BaseException:
            self.jobs.append(job)  # `fail_all` tells its caller
            raise
        job.device_s += took_s
        self.busy_s += took_s
        self.counters.steps.add(time.monotonic() - began_s)
        self.counters.batched_rows += 1
        if job.is_given_up(time.monotonic()):
            job.wasted_steps += 1
            self.most_wasted_steps = max(self.most_wasted_steps, job.wasted_steps)
        self.jobs.append(job)
        return None

    def fail_all(self, error: BarkError) -> None:
        while self.jobs:
            self._fail(self.jobs.popleft(), error, "failed")

    def _fail(self, job: Job, error: BarkError, outcome: Outcome) -> None:
        self.counters.ended[outcome] += 1
        job.steps.close()
        job.result.set_exception(error)


class AsyncTurnTaker:
    """A `TurnTaker` on its own thread."""

    def __init__(self, *, name: str, precedence: Precedence | None = None) -> None:
        self._turns = TurnTaker(precedence)
        self.thread = DeviceThread(self._turns, name)

    @property
    def num_waiting(self) -> int:
        """None waits: each has its turn in every round."""
        return 0

    @property
    def num_running(self) -> int:
        return len(self._turns.jobs)

    @property
    def steps(self) -> int:
        """Device steps so far."""
        return self._turns.steps

    @property
    def most_wasted_steps(self) -> int:
        """The most steps that any job had after it was cancelled or its time was out."""
        return self._turns.most_wasted_steps

    @property
    def busy_s(self) -> float:
        """Seconds that the device worked so far; what every request had of it adds up to this."""
        return self._turns.busy_s

    @property
    def counters(self) -> Counters:
        """What the jobs did so far; each has a batch of its own."""
        return self._turns.counters

    @property
    def backlog(self) -> int:
        """Frames of the jobs that are not done."""
        return sum(job.size for job in self._turns.jobs.copy())

    async def run(self, job: Job) -> Any:
        """Run a job to its end and return its generator's value. Cancelling the task ends it.

        Raises:
            DeadlineExceeded, Cancelled, EngineFailed, and any BarkError that the job raises.
        """
        self.thread.post(lambda: self._turns.submit(job))
        return await _await(job.result, job.cancel)

    def close(self) -> None:
        self.thread.close()


async def _await(result: Future[_T], cancel: Callable[[], None]) -> _T:
    """Await a device thread's future; when the awaiting task is cancelled, cancel the work."""
    try:
        return await asyncio.wrap_future(result)
    except asyncio.CancelledError:
        cancel()
        raise
