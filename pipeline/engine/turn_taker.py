"""TurnTaker: the stages without a KV cache (fine, codec), whose jobs take turns on one thread.

A job is a generator: it yields what it wants of the device and is sent what came of it, again and
again. Turns go round, so none starves and each can end between two. Where the network takes
several at once, those that want the same kind of thing go together.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Hashable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.engine.async_engine import DeviceThread, awaited
from pipeline.engine.counters import Counters, Outcome
from pipeline.engine.precedence import Precedence
from pipeline.errors import BarkError, Cancelled, DeadlineExceeded


class Network(Protocol):
    """What does a job's steps. A result must not depend on what it was computed beside."""

    batch_size: int  # how many it takes at once
    busy_s: float  # how long the last call had the device

    def kind(self, step: Any) -> Hashable:
        """Return what steps must have in common to go together."""

    def run(self, steps: Sequence[Any]) -> list[Any]:
        """Do up to `batch_size` steps of one kind; return what comes of each."""


@dataclass(slots=True, eq=False)
class Job:
    """A run of device steps.

    steps: yields each, is sent its result, and returns the job's. size: frames, for whoever asks
    how much is left to do.
    """

    steps: Generator[Any, Any, Any]
    deadline_s: float | None = None
    result: Future[Any] = field(default_factory=Future)
    is_cancelled: bool = False
    device_s: float = 0.0
    size: int = 0
    is_low: bool = False  # it waits while there are others
    wasted_steps: int = 0  # that it had, or had begun, when it was given up
    step: Any = None  # the one that it waits for; None: it was not begun

    def cancel(self) -> None:
        self.is_cancelled = True

    def is_given_up(self, now_s: float) -> bool:
        """Say whether nobody waits for it any longer."""
        return self.is_cancelled or (self.deadline_s is not None and now_s > self.deadline_s)


class TurnTaker:
    """Runs jobs round robin, one device step of each in turn, or of some together."""

    def __init__(self, network: Network, precedence: Precedence | None = None) -> None:
        self.jobs: deque[Job] = deque()
        self._network, self._precedence = network, precedence
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
        """Do a step of whoever is next, and of those behind it that it can be done with."""
        batch = list(self._next())
        for job in batch:
            self.jobs.remove(job)
        if batch:
            self._run(batch)
        if self._precedence is not None and not self.has_other:
            self._precedence.yield_soon()

    def fail_all(self, error: BarkError) -> None:
        while self.jobs:
            self._fail(self.jobs.popleft(), error, "failed")

    def _next(self) -> Iterator[Job]:
        """Yield the jobs whose step is next: the first, and others that want its kind of step.

        A job that ends before its step is dropped. The others stay in the queue until all are
        known: if one's own code breaks the thread here, `fail_all` must find them there.
        """
        kind: Hashable = None
        num_taken, has_other = 0, self.has_other
        for job in list(self.jobs):
            if num_taken == self._network.batch_size:
                return
            if has_other and job.is_low:
                continue
            if not self._is_ready(job):
                self.jobs.remove(job)
                if not num_taken:
                    return  # one job's host work a step, as its own turn
                continue
            if num_taken and self._network.kind(job.step) != kind:
                continue
            kind = self._network.kind(job.step)
            num_taken += 1
            yield job

    def _is_ready(self, job: Job) -> bool:
        """Say whether a job wants a step; if not, it has ended."""
        if job.is_cancelled:
            self._fail(job, Cancelled("The request was cancelled."), "cancelled")
        elif job.deadline_s is not None and time.monotonic() > job.deadline_s:
            late = DeadlineExceeded("The request's time ran out before it was done.")
            self._fail(job, late, "late")
        elif job.step is None:
            return self._goes_on(job, None)
        else:
            return True
        return False

    def _run(self, batch: list[Job]) -> None:
        self.steps += 1
        began_s = time.monotonic()
        try:
            results = self._network.run([job.step for job in batch])
            busy_s = self._network.busy_s
            self.busy_s += busy_s
            for job, result in zip(batch, results, strict=True):
                job.device_s += busy_s / len(batch)
                if self._goes_on(job, result):
                    self.jobs.append(job)
        except BaseException:
            # `fail_all` tells the callers of those that have not ended
            self.jobs.extend(j for j in batch if not j.result.done() and j not in self.jobs)
            raise
        self.counters.steps.add(time.monotonic() - began_s)
        self.counters.batched_rows += len(batch)
        for job in batch:
            if job.is_given_up(time.monotonic()):
                job.wasted_steps += 1
                self.most_wasted_steps = max(self.most_wasted_steps, job.wasted_steps)

    def _goes_on(self, job: Job, result: Any) -> bool:
        """Send a job what it waits for; say whether it wants another step."""
        try:
            job.step = job.steps.send(result)
        except StopIteration as end:
            self.counters.tokens += job.size
            self.counters.ended["finished"] += 1
            job.result.set_result(end.value)
            return False
        except BarkError as error:
            self._fail(job, error, "failed")
            return False
        return True

    def _fail(self, job: Job, error: BarkError, outcome: Outcome) -> None:
        self.counters.ended[outcome] += 1
        job.steps.close()
        job.result.set_exception(error)


class AsyncTurnTaker:
    """A `TurnTaker` on its own thread."""

    def __init__(
        self, network: Network, *, name: str, precedence: Precedence | None = None
    ) -> None:
        self._turns = TurnTaker(network, precedence)
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
        """What the jobs did so far."""
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
        return await awaited(job.result, job.cancel)

    def close(self) -> None:
        self.thread.close()
