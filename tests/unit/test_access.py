"""Keys and limits, admission, and errors between processes."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import pickle
import time
from pathlib import Path

import pytest

from deployments.access import Access, is_loopback
from deployments.admission import Admission
from deployments.builtin_errors import from_builtin, to_builtin
from deployments.config import AccessSection
from deployments.http_errors import TooManyRequests, Unauthorized, status_of
from pipeline import errors
from pipeline.errors import BarkError, DeadlineExceeded, InvalidRequest, Overloaded, TextTooLong

DIGEST = hashlib.sha256(b"secret").hexdigest()


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────
def test_a_key_is_known_by_its_hash(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"\n# ours\n{DIGEST} studio\n")
    access = Access(AccessSection(keys_file=tmp_path / "keys"))
    assert access.caller("Bearer secret").name == "studio"
    assert access.caller("bearer  secret").name == "studio"
    for wrong in (None, "", "Bearer", "Bearer other", f"Bearer {DIGEST}", "Basic secret"):
        with pytest.raises(Unauthorized):
            access.caller(wrong)


def test_keys_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BARK_SERVE_KEYS", DIGEST)
    assert Access(AccessSection()).caller("Bearer secret").name == "key 1"


@pytest.mark.parametrize("line", ["secret", DIGEST[:-1], f"{DIGEST}x"])
def test_a_line_that_is_no_hash_is_refused_without_repeating_it(tmp_path: Path, line: str) -> None:
    (tmp_path / "keys").write_text(line)
    with pytest.raises(InvalidRequest, match="sha256") as caught:
        Access(AccessSection(keys_file=tmp_path / "keys"))
    assert line not in caught.value.message


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("x", False)],
)
def test_others_are_not_served_without_keys(host: str, local: bool) -> None:
    assert is_loopback(host) == local
    if local:
        Access(AccessSection()).check_bind(host)
    else:
        with pytest.raises(InvalidRequest, match="without API keys"):
            Access(AccessSection()).check_bind(host)
    Access(AccessSection(allow_anonymous=True)).check_bind(host)


def test_limits_are_each_keys_own(monkeypatch: pytest.MonkeyPatch) -> None:
    other = hashlib.sha256(b"other").hexdigest()
    monkeypatch.setenv("BARK_SERVE_KEYS", f"{DIGEST} a\n{other} b")
    access = Access(AccessSection(max_concurrent=1, max_per_minute=3))
    a, b = access.caller("Bearer secret"), access.caller("Bearer other")
    with access.counted(a):
        with pytest.raises(TooManyRequests, match="at once"), access.counted(a):
            pass
        with access.counted(b):
            pass
    for _ in range(2):
        with access.counted(a):
            pass
    with pytest.raises(TooManyRequests, match="a minute") as caught, access.counted(a):
        pass
    assert 1 <= caught.value.retry_after_s <= 60
    assert a.num_running == 0


# ── admission ────────────────────────────────────────────────────────────────────────────────────
def test_the_queue_is_bounded_and_in_order() -> None:
    async def scenario() -> list[int]:
        admission, finished, release = Admission(1, 2), [], asyncio.Event()

        async def request(number: int) -> None:
            async with admission.admit():
                await release.wait()
                finished.append(number)

        tasks = []
        for number in range(3):
            tasks.append(asyncio.create_task(request(number)))
            await asyncio.sleep(0)
        assert (admission.num_running, admission.num_waiting) == (1, 2)
        with pytest.raises(Overloaded) as caught:
            await request(3)
        assert caught.value.retry_after_s >= 1
        release.set()
        await asyncio.gather(*tasks)
        assert (admission.num_running, admission.num_waiting) == (0, 0)
        return finished

    assert asyncio.run(scenario()) == [0, 1, 2]


def test_who_leaves_the_queue_leaves_no_trace() -> None:
    async def scenario() -> None:
        admission = Admission(1, 1)
        async with admission.admit():
            waiting = asyncio.create_task(admission.admit().__aenter__())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            with pytest.raises(DeadlineExceeded):
                async with admission.admit(time.monotonic() + 0.01):
                    pass
            assert admission.num_waiting == 0
        async with admission.admit():
            pass

    asyncio.run(scenario())


def test_a_drained_queue_finishes_what_it_has_and_takes_no_more() -> None:
    async def scenario() -> None:
        admission, release = Admission(1, 5), asyncio.Event()

        async def request() -> None:
            async with admission.admit():
                await release.wait()

        taken = [asyncio.create_task(request()) for _ in range(2)]
        await asyncio.sleep(0)
        drained = asyncio.create_task(admission.drain())
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="going down"):
            await request()
        assert not drained.done()
        release.set()
        await asyncio.gather(*taken, drained)

    asyncio.run(scenario())


# ── errors ───────────────────────────────────────────────────────────────────────────────────────
CLASSES = [
    kind
    for kind in vars(errors).values()
    if inspect.isclass(kind) and issubclass(kind, BarkError) and kind is not BarkError
]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_crosses_as_a_builtin_and_comes_back(kind: type[BarkError]) -> None:
    builtin = pickle.loads(pickle.dumps(to_builtin(kind("what: happened\nand why"))))
    assert type(builtin).__module__ == "builtins"
    back = from_builtin(builtin)
    assert type(back) is kind
    assert back.message == "what: happened\nand why"
    assert 400 <= status_of(back) < 600


def test_the_wait_crosses_too_and_foreign_errors_stay_foreign() -> None:
    back = from_builtin(to_builtin(Overloaded("full", 7.5)))
    assert isinstance(back, Overloaded)
    assert back.retry_after_s == 7.5
    for foreign in (ValueError("nothing"), RuntimeError("unknown_code: x"), KeyError("a")):
        assert from_builtin(foreign) is None


def test_a_subclass_answers_as_itself_or_its_parent() -> None:
    assert (status_of(TextTooLong("x")), status_of(TooManyRequests("x"))) == (422, 429)
