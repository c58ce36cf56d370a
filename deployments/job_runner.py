"""The jobs of the store, worked on in this process: taken, made, kept, told.

Every ingress replica runs one of these, and all of them see the same queue; which of them gets a
job is decided by the store. Nothing here is remembered that a crash could lose.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

from deployments import metrics
from deployments.config import JobSection
from deployments.generation import Generation
from deployments.keeping import find_kept, keep, keep_rendition
from deployments.service import Service
from deployments.webhooks import Webhooks
from pipeline.errors import (
    BarkError,
    Cancelled,
    DeadlineExceeded,
    EngineFailed,
    LeaseLost,
    ModelChanged,
    Overloaded,
    StoreUnavailable,
)
from pipeline.job_records import Job, job_of
from pipeline.jobs import Held

log = logging.getLogger(__name__)
_T = TypeVar("_T")

# What another try may mend; all else is the job's own fault.
_PASSING: Final = (EngineFailed, ModelChanged, StoreUnavailable, Overloaded, Cancelled)
_STAGES: Final = ("semantic", "coarse", "fine", "codec")
_TELL_EVERY_S: Final = 1.0
_DAMAGED_PAUSE_S: Final = 60.0
_STORE_PAUSE_S: Final = 2.0
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0
_SWEEP_EVERY_S: Final = 600.0


class JobRunner:
    """Works on jobs until it is drained. For one event loop."""

    def __init__(
        self,
        service: Service,
        config: JobSection,
        webhooks: Webhooks,
        describe: Callable[[Job], dict[str, Any]],
    ) -> None:
        self._service, self._config, self._webhooks = service, config, webhooks
        self._describe = describe  # a job as its caller sees it
        self._access, self._jobs = service.store, service.store.jobs
        self._holder = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._running: dict[str, asyncio.Task[None]] = {}
        self._making = set[str]()  # those of them that make sound
        self._not_before: dict[str, float] = {}  # signposts → unix seconds
        self._wake, self._is_stopping = asyncio.Event(), False
        self._loop: asyncio.Task[None] | None = None
        self._swept_s = 0.0
        self.num_waiting = 0  # when the queue was last looked at, and what came since

    @property
    def num_running(self) -> int:
        """Jobs in hand."""
        return len(self._running)

    def start(self) -> None:
        """Begin to work, on the running event loop; again is no error."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop().create_task(self._run())

    def wake(self) -> None:
        """Look at the queue now: something was put into it."""
        self.num_waiting += 1
        self._wake.set()

    def check_room(self) -> None:
        """Refuse more jobs than may wait.

        Raises:
            Overloaded.
        """
        if self.num_waiting >= self._config.max_waiting:
            raise Overloaded("too many generations are waiting; try again later", 30.0)

    async def drain(self) -> None:
        """Take no more jobs, and return when those in hand are done; the rest stay in the store."""
        self._is_stopping = True
        self._wake.set()
        if self._loop is not None:
            await self._loop
        while self._running:
            await asyncio.wait(self._running.values())

    # ── the queue ────────────────────────────────────────────────────────────────────────────────
    async def _run(self) -> None:
        while not self._is_stopping:
            self._wake.clear()
            pause_s = self._config.poll_s
            for act in (self._take_what_fits, self._sweep):
                try:
                    await act()
                except StoreUnavailable as error:
                    log.warning("jobs have to wait: %s", error.message)
                    pause_s = _STORE_PAUSE_S
                except Exception:  # this loop must outlive whatever one job does to it
                    log.exception("looking for jobs failed")
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()

    async def _take_what_fits(self) -> None:
        waiting = await self._access.run(self._jobs.waiting)
        self.num_waiting = len(waiting)
        there = set(waiting)
        self._not_before = {k: t for k, t in self._not_before.items() if k in there}
        for signpost in waiting:
            if self._is_stopping or len(self._making) >= self._config.max_running:
                return
            later_s = self._not_before.get(signpost, 0.0)
            if job_of(signpost) in self._running or later_s > time.time():
                continue
            try:
                found = await self._access.run(self._jobs.take, signpost, self._holder)
            except StoreUnavailable as error:
                # one record that can not be read is no reason to leave the others
                log.warning("%s is passed over: %s", job_of(signpost), error.message)
                found = time.time() + _DAMAGED_PAUSE_S
            if isinstance(found, Held):
                self._begin(found)
            elif found is not None:
                self._not_before[signpost] = found

    def _begin(self, held: Held) -> None:
        task = asyncio.get_running_loop().create_task(self._work(held))
        self._running[held.job.id] = task
        if not held.job.is_ended:
            # whoever waits for a webhook's receiver takes no room from work
            self._making.add(held.job.id)

        def done(_: asyncio.Task[None]) -> None:
            del self._running[held.job.id]
            self._making.discard(held.job.id)
            self._wake.set()

        task.add_done_callback(done)

    async def _sweep(self) -> None:
        if time.monotonic() - self._swept_s > _SWEEP_EVERY_S:
            self._swept_s = time.monotonic()
            for job in await self._access.run(self._jobs.forget_expired):
                if job.generation_id is not None:
                    release = self._access.generations.release
                    await self._access.run(release, job.generation_id, job.id)

    # ── one job ──────────────────────────────────────────────────────────────────────────────────
    async def _work(self, held: Held) -> None:
        try:
            if held.job.is_ended:
                await self._tell(held)
            else:
                await self._make_and_end(held)
        except LeaseLost as error:
            log.info("%s", error.message)
        except Exception:  # its lease runs out, and someone tries again
            log.exception("work on %s broke off", held.job.id)

    async def _make_and_end(self, held: Held) -> None:
        jobs, progress = self._jobs, dict[str, int]()
        try:
            made_id, result = await self._leased(held, progress, self._make(held.job, progress))
        except LeaseLost:
            metrics.JOBS.add(outcome="lost")
            raise
        except _PASSING as error:
            pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (held.job.attempts - 1))
            log.warning("%s is tried again in %.0f s: %s", held.job.id, pause_s, error.message)
            if held.job.attempts >= self._config.max_attempts:
                await self._fail(held, error)
            else:
                await self._insist(jobs.put_back, held, pause_s)
                metrics.JOBS.add(outcome="put_back")
        except BarkError as error:
            await self._fail(held, error)
        else:
            await self._insist(jobs.succeed, held, made_id, result, progress)
            metrics.JOBS.add(outcome="succeeded")

    async def _fail(self, held: Held, error: BarkError) -> None:
        await self._insist(self._jobs.fail, held, error.code, error.message)
        metrics.JOBS.add(outcome="failed")

    async def _leased(self, held: Held, progress: dict[str, int], work: Awaitable[_T]) -> _T:
        """Await work, renewing the lease meanwhile; cancel it if the job is ours no longer."""
        task = asyncio.ensure_future(work)
        try:
            told, told_s = dict(progress), time.monotonic()
            while not (await asyncio.wait({task}, timeout=_TELL_EVERY_S))[0]:
                if progress == told and time.monotonic() - told_s < self._config.lease_s / 3:
                    continue
                told, told_s = dict(progress), time.monotonic()
                try:
                    await self._access.run(self._jobs.renew, held, told)
                except StoreUnavailable as error:
                    log.warning("a lease is not renewed: %s", error.message)
            return await task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, BarkError):
                await task

    async def _make(self, job: Job, progress: dict[str, int]) -> tuple[str, dict[str, Any]]:
        """Make the sound and keep it; return the generation's id, and what to tell of it."""
        form, kept = (job.audio_format, job.speed), list[dict[str, Any]]()

        def told(stage: str, _segment: int, done: int, total: int) -> None:
            if stage == "text":
                progress.clear()
                progress["segments"] = total
            elif done == total:
                progress[stage] = progress.get(stage, 0) + 1

        async def keep_all(done: Generation) -> None:
            progress.update(dict.fromkeys(_STAGES, progress["segments"]))
            await self._hold(done.id, job)
            kept.append(await self._insist_on(lambda: keep(done)))
            kept.append(await self._insist_on(lambda: keep_rendition(done, *form)))

        began_s = time.monotonic()
        while True:
            # anew for each try: one that broke off has some of its segments
            generation = await self._service.start(
                job.request,
                progress=told,
                headers=job.trace,
                at_end=keep_all,
                request_id=job.id,
                owner=job.owner_name,
                way="job",
            )
            there = await find_kept(generation.id, self._access, *form) is not None
            metrics.CACHE_LOOKUPS.add(cache="generation", result="hit" if there else "miss")
            if there:
                await self._hold(generation.id, job)  # and look again: it may have gone meanwhile
                if (made := await find_kept(generation.id, self._access, *form)) is not None:
                    return generation.id, _result(*made)
            try:
                async for _ in generation.segments():
                    pass
            except Overloaded as error:  # the front, or a stage, is full of others
                if self._is_stopping:
                    raise  # another replica's, then
                left_s = generation.deadline_s - generation.began_s
                if time.monotonic() - began_s > left_s:
                    raise DeadlineExceeded("The time ran out while the service was full.") from None
                await asyncio.sleep(error.retry_after_s)
            else:
                return generation.id, _result(*kept[-2:])

    async def _hold(self, generation_id: str, job: Job) -> None:
        await self._insist_on(
            lambda: self._access.run(self._access.generations.hold, generation_id, job.id)
        )

    async def _tell(self, held: Held) -> None:
        hook, job = held.job.hook, held.job
        assert hook is not None
        event = f"generation.{job.status}"
        send = self._webhooks.send(hook, event, job.id, self._describe(job))
        after = await self._leased(held, dict(job.progress), send)
        if after.is_done and after.last_error is not None:
            log.warning("webhook of %s given up: %s", job.id, after.last_error)
        await self._insist(self._jobs.told, held, after)

    async def _insist(self, act: Callable[..., None], *arguments: Any) -> None:
        """Write to the store, however long it is away: what was done must not be lost."""
        await self._insist_on(lambda: self._access.run(act, *arguments))

    async def _insist_on(self, act: Callable[[], Awaitable[_T]]) -> _T:
        while True:
            try:
                return await act()
            except StoreUnavailable as error:
                log.warning("waiting for the store: %s", error.message)
                await asyncio.sleep(_STORE_PAUSE_S)


def _result(facts: dict[str, Any], file: dict[str, Any]) -> dict[str, Any]:
    """Return what a job's record tells of its generation."""
    told = ("seed", "finish_reason", "duration_s", "sample_rate", "unknown_words", "timings")
    return {"audio": file, **{key: facts[key] for key in told}}
