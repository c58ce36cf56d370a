"""Jobs in a store: queued, leased, ended exactly once, whoever dies. Knows no Ray and no HTTP.

```
jobs/{id}.json                   the record; every change replaces one version of it by the next
queue/{created}-{id}             there while something is left to do; sorted, the oldest first
expiring/{time}-{id}             when an ended job may be forgotten
```

A worker takes a job by writing its name and a time into the record: a lease. It renews the lease
while it works; a job whose lease has run out belongs to whoever comes first. The record says what
is true; the other two are signposts to it, written so that a crash between two writes leaves at
most a signpost that leads to nothing, which the next passer-by removes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from pipeline.errors import (
    BarkError,
    GenerationNotFound,
    IdempotencyKeyReused,
    LeaseLost,
    StoreUnavailable,
)
from pipeline.job_records import (
    ID_DIGITS,
    ID_PREFIX,
    Hook,
    Job,
    Lease,
    Status,
    is_job_id,
    job_of,
    record_key,
    sortable,
)
from pipeline.store import Store

# Two who change a record at once: the slower one looks again.
_TRIES: Final = 50


@dataclass(slots=True, eq=False)
class Held:
    """A job in the hands of one worker, and the version of its record that it has seen."""

    job: Job
    version: str


class Jobs:
    """All jobs of a store.

    lease_s: how long a worker may be silent. keep_s: how long ended jobs are remembered.
    max_attempts: a job whose workers keep dying is given up after so many.
    """

    def __init__(
        self,
        store: Store,
        *,
        lease_s: float = 30.0,
        keep_s: float = 7 * 86_400.0,
        max_attempts: int = 20,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._clock = store, clock
        self.lease_s, self.keep_s, self.max_attempts = lease_s, keep_s, max_attempts

    # ── callers ──────────────────────────────────────────────────────────────────────────────────
    def submit(
        self,
        request: Mapping[str, Any],
        *,
        owner: str,
        owner_name: str = "",
        content: str,
        audio_format: str,
        speed: float = 1.0,
        key: str | None = None,
        hook_url: str | None = None,
        trace: Mapping[str, str] | None = None,
        is_whole: Callable[[Job], bool] = lambda _: True,
    ) -> Job:
        """Queue a job, or return the one that there is already.

        Args:
            content: digest of all that decides the result: the same from the same owner is the
                same job, unless that one failed or was cancelled.
            key: an Idempotency-Key: the same job however it ended.
            is_whole: says of a job that succeeded whether its sound is still there; one whose
                sound is gone is made again.

        Raises:
            IdempotencyKeyReused: the key belongs to another content.
        """
        named = ["content", owner, content] if key is None else ["key", owner, key]
        digest = hashlib.sha256(json.dumps(named).encode()).hexdigest()
        fresh = Job(
            id=f"{ID_PREFIX}{digest[:ID_DIGITS]}",
            owner=owner,
            content=content,
            request=dict(request),
            audio_format=audio_format,
            speed=speed,
            created_unix_s=self._clock(),
            hook=None if hook_url is None else Hook(hook_url),
            trace=dict(trace or {}),
            owner_name=owner_name,
        )
        for _ in range(_TRIES):
            if self._store.put_if_absent(record_key(fresh.id), fresh.pack()):
                job = fresh
                break
            found = self._load(fresh.id)
            if found is None:
                continue  # forgotten in between
            if found.job.content != content:
                raise IdempotencyKeyReused(
                    "this Idempotency-Key was used for another request: use a new one"
                )
            is_lost = found.job.status == "succeeded" and not is_whole(found.job)
            is_over = found.job.status in ("failed", "cancelled") and key is None
            if not is_lost and not is_over:
                job = found.job
                break
            stale = found.job.signpost
            if self._write(found, fresh):
                self._store.delete(stale)
                job = fresh
                break
        else:
            raise _contended(fresh.id)
        if job.has_work:
            # before anybody is told that the job is taken, there is a way to it
            self._store.put_if_absent(job.signpost, b"")
        return job

    def load(self, job_id: str, owner: str | None = None) -> Job:
        """Return a job.

        Args:
            owner: whose it must be; None asks for nobody's.

        Raises:
            GenerationNotFound: there is none, or it is another owner's.
        """
        found = self._load(job_id) if is_job_id(job_id) else None
        if found is None or owner not in (None, found.job.owner):
            raise GenerationNotFound(f"there is no generation {job_id[:100]!r}")
        return found.job

    def cancel(self, job_id: str, owner: str | None = None) -> Job:
        """End a job that has not ended; its worker hears of it when it renews its lease.

        Raises:
            GenerationNotFound.
        """
        self.load(job_id, owner)
        error = {"code": "cancelled", "message": "The request was cancelled."}
        return self._change(
            job_id, lambda job: job if job.is_ended else self._ended(job, "cancelled", error=error)
        )

    def forget(self, job_id: str) -> Job | None:
        """Remove a job that has ended, as it was seen; return it if it was removed."""
        found = self._load(job_id)
        if found is None or not found.job.is_ended:
            return None
        if not self._store.delete(record_key(job_id), found.version):
            return None  # it was queued again in between
        self._store.delete(found.job.signpost)
        self._store.delete(self._expiry(found.job))
        return found.job

    # ── workers ──────────────────────────────────────────────────────────────────────────────────
    def waiting(self) -> list[str]:
        """Return the signposts of jobs with something left to do, the oldest first."""
        return [key for key in self._store.list("queue/") if is_job_id(job_of(key))]

    def take(self, signpost: str, holder: str) -> Held | float | None:
        """Take a job, or the telling of its end, if it is free.

        Args:
            signpost: as `waiting` returns it.

        Returns:
            The job; or a time before which asking again is of no use; or None where this signpost
            led to nothing, and is gone.
        """
        job_id, now = job_of(signpost), self._clock()
        found = self._load(job_id)
        if found is None or found.job.signpost != signpost or not found.job.has_work:
            if found is not None and not found.job.has_work:
                self._tidy(found.job)
            self._store.delete(signpost)
            self._point_again(job_id)
            return None
        job = found.job
        if job.lease is not None and job.lease.until_unix_s > now:
            return job.lease.until_unix_s
        ready = max(job.not_before_unix_s, job.hook.next_unix_s if job.is_ended and job.hook else 0)
        if ready > now:
            return ready
        if not job.is_ended and job.attempts >= self.max_attempts:
            message = f"given up after {job.attempts} attempts: whoever worked on it died or failed"
            error = {"code": "engine_failed", "message": message}
            self._write(found, self._ended(job, "failed", error=error))
            return now
        taken = replace(job, lease=Lease(holder, now + self.lease_s))
        if not job.is_ended:
            taken = replace(taken, status="running", attempts=job.attempts + 1, progress={})
        return found if self._write(found, taken) else now

    def renew(self, held: Held, progress: Mapping[str, int]) -> None:
        """Say that work goes on, and how far it is.

        Raises:
            LeaseLost: the job was cancelled, or another has taken it.
        """
        lease = self._lease(held)
        later = replace(lease, until_unix_s=self._clock() + self.lease_s)
        self._update(held, replace(held.job, lease=later, progress=dict(progress)))

    def succeed(
        self,
        held: Held,
        generation_id: str,
        result: Mapping[str, Any],
        progress: Mapping[str, int] | None = None,
    ) -> None:
        """End a job; what it made is in the store already.

        Raises:
            LeaseLost: as for `renew`; the job's end is another's.
        """
        done = replace(
            held.job,
            generation_id=generation_id,
            result=dict(result),
            progress=dict(progress or held.job.progress),
        )
        self._end(held, self._ended(done, "succeeded"))

    def fail(self, held: Held, code: str, message: str) -> None:
        """End a job that can not be done.

        Raises:
            LeaseLost.
        """
        error = {"code": code, "message": message}
        self._end(held, self._ended(held.job, "failed", error=error))

    def put_back(self, held: Held, pause_s: float) -> None:
        """Let others have the job, after a pause.

        Raises:
            LeaseLost.
        """
        free = replace(held.job, lease=None, not_before_unix_s=self._clock() + pause_s)
        self._update(held, free if free.is_ended else replace(free, status="queued"))

    def told(self, held: Held, hook: Hook) -> None:
        """Note how the telling of a job's end went.

        Raises:
            LeaseLost.
        """
        self._update(held, replace(held.job, hook=hook, lease=None))
        self._tidy(held.job)

    def forget_expired(self) -> list[Job]:
        """Remove jobs that ended long enough ago; return them.

        A record that can not be read stays; the others do not wait for it.
        """
        now, gone = sortable(self._clock()), list[Job]()
        for key in self._store.list("expiring/"):
            when, _, job_id = key.removeprefix("expiring/").partition("-")
            if when > now:
                break
            try:
                found = self._load(job_id)
            except StoreUnavailable:
                continue
            # a job of the same id may have been queued again since
            if found is not None and found.job.is_ended and self._expiry(found.job) == key:
                forgotten = self.forget(job_id)
                gone += [] if forgotten is None else [forgotten]
            self._store.delete(key)
        return gone

    # ── records ──────────────────────────────────────────────────────────────────────────────────
    def _load(self, job_id: str) -> Held | None:
        found = self._store.get_versioned(record_key(job_id))
        return None if found is None else Held(Job.unpack(found.data, job_id), found.version)

    def _write(self, held: Held, job: Job) -> bool:
        """Put a record in place of the version that was seen; False if it has changed since."""
        data = job.pack()
        version = self._store.replace(record_key(job.id), data, held.version)
        if version is None:
            # The answer to an earlier try may have been lost: then what is there is ours.
            there = self._store.get_versioned(record_key(job.id))
            if there is None or there.data != data:
                return False
            version = there.version
        held.job, held.version = job, version
        return True

    def _change(self, job_id: str, change: Callable[[Job], Job]) -> Job:
        """Change a record, whoever else does."""
        for _ in range(_TRIES):
            found = self._load(job_id)
            if found is None:
                raise GenerationNotFound(f"there is no generation {job_id!r}")
            job = change(found.job)
            if job is found.job or self._write(found, job):
                self._tidy(job)
                return job
        raise _contended(job_id)

    def _update(self, held: Held, job: Job) -> None:
        if not self._write(held, job):
            raise LeaseLost(f"{job.id} is no longer ours")

    def _end(self, held: Held, job: Job) -> None:
        self._lease(held)
        self._update(held, job)
        self._tidy(job)

    def _lease(self, held: Held) -> Lease:
        assert held.job.lease is not None
        return held.job.lease

    def _ended(self, job: Job, status: Status, error: dict[str, str] | None = None) -> Job:
        return replace(job, status=status, error=error, lease=None, ended_unix_s=self._clock())

    # ── signposts ────────────────────────────────────────────────────────────────────────────────
    def _tidy(self, job: Job) -> None:
        if job.is_ended:
            self._store.put(self._expiry(job), b"")
            if not job.has_work:
                self._store.delete(job.signpost)

    def _point_again(self, job_id: str) -> None:
        """Put a job's signpost back, should it have been queued again while one was removed."""
        found = self._load(job_id)
        if found is not None and found.job.has_work:
            self._store.put_if_absent(found.job.signpost, b"")

    def _expiry(self, job: Job) -> str:
        assert job.ended_unix_s is not None
        return f"expiring/{sortable(job.ended_unix_s + self.keep_s)}-{job.id}"


def _contended(job_id: str) -> BarkError:
    return BarkError(f"{job_id} changes all the time; try again")
