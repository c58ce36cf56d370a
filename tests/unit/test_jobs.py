"""Jobs: one record, changed by one at a time; nothing lost, nothing ended twice."""

from __future__ import annotations

import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from s3_server import S3Server

from pipeline.errors import (
    GenerationNotFound,
    IdempotencyKeyReused,
    LeaseLost,
    StoreUnavailable,
)
from pipeline.job_records import Hook, Job
from pipeline.jobs import Held, Jobs
from pipeline.store import Store, open_store

REQUEST = {"text": "Hello.", "seed": 7}


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return open_store(tmp_path)
    server: S3Server = request.getfixturevalue("s3")
    return open_store(server.location(uuid.uuid4().hex))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(store: Store, clock: Clock) -> Jobs:
    return Jobs(store, clock=clock, lease_s=10, keep_s=100, max_attempts=3)


def submit(jobs: Jobs, content: str = "c", **more: Any) -> Job:
    given = {"owner": "me", "audio_format": "wav", **more}
    return jobs.submit(REQUEST, content=content, **given)


def take(jobs: Jobs, job: Job, holder: str = "a") -> Held:
    held = jobs.take(job.signpost, holder)
    assert isinstance(held, Held)
    return held


def test_a_job_runs_to_its_end(jobs: Jobs, store: Store) -> None:
    job = submit(jobs)
    assert jobs.waiting() == [job.signpost]
    held = take(jobs, job)
    assert jobs.load(job.id).status == "running"
    jobs.renew(held, {"segments": 2, "semantic": 1})
    assert jobs.load(job.id).progress == {"segments": 2, "semantic": 1}
    jobs.succeed(held, "abcd", {"duration_s": 1.5})
    done = jobs.load(job.id, "me")
    assert (done.status, done.generation_id, done.request) == ("succeeded", "abcd", REQUEST)
    assert jobs.waiting() == []
    assert store.list("queue/") == []
    assert jobs.take(job.signpost, "b") is None


def test_equal_content_is_one_job_until_it_fails(jobs: Jobs, clock: Clock) -> None:
    first = submit(jobs)
    clock.now += 5
    assert submit(jobs).created_unix_s == first.created_unix_s
    assert submit(jobs, owner="another").id != first.id
    assert submit(jobs, "other content").id != first.id
    jobs.fail(take(jobs, first), "engine_failed", "no")
    assert jobs.load(first.id).error == {"code": "engine_failed", "message": "no"}
    again = submit(jobs)
    assert (again.id, again.status) == (first.id, "queued")
    jobs.succeed(take(jobs, again), "abcd", {})
    assert submit(jobs).status == "succeeded"


def test_an_idempotency_key_is_one_job_for_one_content(jobs: Jobs) -> None:
    first = submit(jobs, key="k")
    assert submit(jobs, key="k") == first
    with pytest.raises(IdempotencyKeyReused, match="use a new one"):
        submit(jobs, "other content", key="k")
    assert submit(jobs, "other content", key="k", owner="another").id != first.id
    jobs.fail(take(jobs, first), "x", "y")
    assert submit(jobs, key="k").status == "failed"


def test_of_sixteen_takers_one_gets_the_job(jobs: Jobs) -> None:
    job, start = submit(jobs), threading.Barrier(16)

    def race(number: int) -> bool:
        start.wait()
        return isinstance(jobs.take(job.signpost, str(number)), Held)

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(race, range(16))).count(True) == 1
    assert jobs.load(job.id).attempts == 1


def test_of_sixteen_submissions_there_is_one_job(jobs: Jobs, store: Store) -> None:
    start = threading.Barrier(16)

    def race(_: int) -> Job:
        start.wait()
        return submit(jobs)

    with ThreadPoolExecutor(16) as pool:
        assert len({job.id for job in pool.map(race, range(16))}) == 1
    assert len(store.list("jobs/")) == len(store.list("queue/")) == 1


def test_a_silent_workers_job_goes_to_another_and_ends_once(jobs: Jobs, clock: Clock) -> None:
    job = submit(jobs)
    dead = take(jobs, job, "dead")
    assert jobs.take(job.signpost, "b") == clock.now + 10
    clock.now += 6
    jobs.renew(dead, {})
    clock.now += 6
    assert jobs.take(job.signpost, "b") == clock.now + 4
    clock.now += 5
    heir = take(jobs, job, "heir")
    assert heir.job.attempts == 2
    for act in (
        lambda: jobs.renew(dead, {}),
        lambda: jobs.succeed(dead, "wrong", {}),
        lambda: jobs.fail(dead, "x", "y"),
        lambda: jobs.put_back(dead, 1),
    ):
        with pytest.raises(LeaseLost):
            act()
    jobs.succeed(heir, "abcd", {})
    assert jobs.load(job.id).generation_id == "abcd"


def test_a_job_that_kills_its_workers_is_given_up(jobs: Jobs, clock: Clock) -> None:
    job = submit(jobs)
    for _ in range(3):
        take(jobs, job)
        clock.now += 11
    assert jobs.take(job.signpost, "b") == clock.now
    ended = jobs.load(job.id)
    assert ended.status == "failed"
    assert "given up after 3 attempts" in (ended.error or {})["message"]
    assert jobs.take(job.signpost, "b") is None
    assert jobs.waiting() == []


def test_a_job_put_back_waits_its_time(jobs: Jobs, clock: Clock) -> None:
    job = submit(jobs)
    jobs.put_back(take(jobs, job), 3)
    assert jobs.load(job.id).status == "queued"
    assert jobs.take(job.signpost, "b") == clock.now + 3
    clock.now += 4
    take(jobs, job, "b")


def test_a_cancelled_job_is_lost_to_its_worker(jobs: Jobs) -> None:
    job = submit(jobs)
    held = take(jobs, job)
    assert jobs.cancel(job.id, "me").status == "cancelled"
    with pytest.raises(LeaseLost):
        jobs.renew(held, {})
    with pytest.raises(LeaseLost):
        jobs.succeed(held, "abcd", {})
    assert jobs.cancel(job.id).status == "cancelled"
    assert jobs.waiting() == []
    done = submit(jobs, "other")
    jobs.succeed(take(jobs, done), "abcd", {})
    assert jobs.cancel(done.id).status == "succeeded"  # too late, and no error


def test_jobs_are_their_owners_business(jobs: Jobs) -> None:
    job = submit(jobs)
    for job_id, owner in ((job.id, "another"), ("job-" + "0" * 32, "me"), ("../x", "me")):
        with pytest.raises(GenerationNotFound):
            jobs.load(job_id, owner)
        with pytest.raises(GenerationNotFound):
            jobs.cancel(job_id, owner)
    assert jobs.load(job.id).status == "queued"


def test_the_end_is_told_until_it_is_heard(jobs: Jobs, clock: Clock) -> None:
    job = submit(jobs, hook_url="https://example.com/hook")
    jobs.succeed(take(jobs, job), "abcd", {})
    assert jobs.waiting() == [job.signpost]  # there is something left to do
    held = take(jobs, job)
    assert held.job.status == "succeeded"
    assert held.job.attempts == 1
    hook = held.job.hook
    assert hook is not None
    jobs.told(held, Hook(hook.url, 1, clock.now + 2, last_error="503"))
    assert jobs.take(job.signpost, "b") == clock.now + 2
    clock.now += 3
    jobs.told(take(jobs, job, "b"), Hook(hook.url, 2, is_done=True))
    assert jobs.waiting() == []
    assert jobs.load(job.id).hook == Hook(hook.url, 2, is_done=True)


def test_ended_jobs_are_forgotten_in_time(jobs: Jobs, store: Store, clock: Clock) -> None:
    old, running = submit(jobs), submit(jobs, "running")
    take(jobs, running)
    jobs.succeed(take(jobs, old), "abcd", {})
    clock.now += 50
    late = submit(jobs, "late")
    jobs.fail(take(jobs, late), "x", "y")
    assert jobs.forget_expired() == []
    clock.now += 51
    assert len(jobs.forget_expired()) == 1
    with pytest.raises(GenerationNotFound):
        jobs.load(old.id)
    assert {jobs.load(running.id).status, jobs.load(late.id).status} == {"running", "failed"}
    submit(jobs, "late")  # queued again: its old date counts no longer
    clock.now += 51
    assert jobs.forget_expired() == []
    assert jobs.load(late.id).status == "queued"
    assert store.list("expiring/") == []


def test_the_oldest_job_comes_first(jobs: Jobs, clock: Clock) -> None:
    made = []
    for number in range(12):
        clock.now += 0.5
        made.append(submit(jobs, f"{number * 7 % 12}").signpost)
    assert jobs.waiting() == made


class Dies(Exception):
    pass


class DyingStore:
    """Passes so many writes on, and dies at the next: before it, or after it."""

    def __init__(self, store: Store, writes: int, *, after: bool) -> None:
        self._store, self._left, self._after = store, writes, after

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._store, name)
        if name not in ("put", "put_if_absent", "replace", "delete"):
            return real

        def write(*arguments: Any) -> Any:
            self._left -= 1
            if self._left < 0 and not self._after:
                raise Dies
            found = real(*arguments)
            if self._left < 0:
                raise Dies
            return found

        return write


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("writes", range(9))
def test_a_crash_between_any_two_writes_loses_nothing(
    store: Store, clock: Clock, writes: int, after: bool
) -> None:
    """Whoever dies wherever: the caller asks again, another worker comes, and the job ends once."""
    ends: list[str] = []

    def live(jobs: Jobs, name: str) -> None:
        job = submit(jobs)
        for signpost in jobs.waiting():
            held = jobs.take(signpost, name)
            if isinstance(held, Held) and held.job.status == "running":
                jobs.renew(held, {"segments": 1})
                jobs.succeed(held, name, {})
                ends.append(name)
        assert jobs.load(job.id).id == job.id

    dying: Any = DyingStore(store, writes, after=after)
    with suppress(Dies):
        live(Jobs(dying, clock=clock, lease_s=10, keep_s=100), "first")
    clock.now += 11
    live(Jobs(store, clock=clock, lease_s=10, keep_s=100), "second")
    jobs = Jobs(store, clock=clock, lease_s=10, keep_s=100)
    job = submit(jobs)
    assert job.status == "succeeded"
    assert len(ends) <= 1
    assert jobs.waiting() in ([], [job.signpost])
    jobs.take(job.signpost, "third")  # whoever passes a signpost to nothing removes it
    assert jobs.waiting() == []
    clock.now += 101
    assert jobs.forget_expired()  # and what has ended is forgotten all the same
    assert store.list() == []


def test_a_job_queued_again_while_it_is_forgotten_stays(jobs: Jobs, store: Store) -> None:
    """Whoever forgets has looked at the failed one; what was queued since is not his to remove."""
    job = submit(jobs)
    jobs.fail(take(jobs, job), "x", "y")
    real = store.delete

    def delete(key: str, version: str | None = None) -> bool:
        if key.startswith("jobs/") and version is not None:
            assert submit(jobs).status == "queued"
        return real(key, version)

    watched: Any = Watched(store, delete)
    assert Jobs(watched, keep_s=100).forget(job.id) is None
    assert jobs.load(job.id).status == "queued"
    (signpost,) = jobs.waiting()
    assert isinstance(jobs.take(signpost, "a"), Held)


class Watched:
    def __init__(self, store: Store, delete: Any) -> None:
        self._store, self.delete = store, delete

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_a_stale_signpost_is_removed_and_the_right_one_put_back(
    jobs: Jobs, store: Store, clock: Clock
) -> None:
    old = submit(jobs)
    jobs.fail(take(jobs, old), "x", "y")
    clock.now += 5
    new = submit(jobs)
    assert jobs.waiting() == [new.signpost]
    store.put(old.signpost, b"")
    store.delete(new.signpost)
    assert jobs.take(old.signpost, "a") is None
    assert jobs.waiting() == [new.signpost]
    store.put("queue/readme", b"")
    assert jobs.waiting() == [new.signpost]


def test_a_write_whose_answer_was_lost_is_known_as_ones_own(jobs: Jobs, store: Store) -> None:
    job = submit(jobs)
    held = take(jobs, job)
    later = replace(held.job, progress={"segments": 3})
    store.replace(f"jobs/{job.id}.json", later.pack(), held.version)
    assert jobs._write(held, later)
    jobs.renew(held, {"segments": 3})


def test_records_of_a_newer_version_are_read(jobs: Jobs, store: Store) -> None:
    job = submit(jobs)
    key = f"jobs/{job.id}.json"
    newer = {**json.loads(store.get(key) or b""), "invented_later": 1}
    store.put(key, json.dumps(newer).encode())
    assert jobs.load(job.id) == job


def test_a_damaged_record_is_reported(jobs: Jobs, store: Store) -> None:
    job = submit(jobs)
    for content in (b"{", b"{}", b"[]", b'{"id": 1, "lease": {"x": 1}}'):
        store.put(f"jobs/{job.id}.json", content)
        with pytest.raises(StoreUnavailable, match="damaged"):
            jobs.load(job.id)
