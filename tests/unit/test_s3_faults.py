"""An S3 server that dies, hangs, refuses or is not there: bounded waits, clear errors, no ruins."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import botocore.auth
import pytest
from s3_server import READER, S3Server

from pipeline.errors import StoreUnavailable
from pipeline.generations import Generations
from pipeline.store import Store, open_store, s3
from pipeline.store.s3 import S3Store

BIG = b"sound" * 8_000_000  # 40 MB: three parts
# a server that is dead refuses at once: only one that hangs needs a short wait, and one that has
# just been started on a busy machine may take its time to answer
QUICK: dict[str, Any] = {"connect_timeout_s": 5.0, "read_timeout_s": 30.0, "attempts": 2}


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("broken-weed"))
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def server(own_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """Return a server that may be broken; it is mended afterwards."""
    for name, value in own_server.environment().items():
        monkeypatch.setenv(name, value)
    yield own_server
    if own_server.process is None:
        own_server.start()
    own_server.thaw()


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return str(request.node.name).replace("[", "-").replace("]", "")


def save(store: Store, audio: bytes = b"sound") -> dict[str, Any]:
    return Generations(store).save("abcd", audio, "wav", {}, {"text": "hello"})


def test_killed_before_a_write_and_started_again(server: S3Server, prefix: str) -> None:
    store = open_store(server.location(prefix, **QUICK))
    store.put("before", b"1")
    server.kill()
    with pytest.raises(StoreUnavailable, match=r"can not read s3://bark/.*: Could not connect"):
        save(store)
    server.start()
    assert store.get("before") == b"1"
    assert Generations(store).load_manifest("abcd") is None
    assert save(store)["id"] == "abcd"


@pytest.mark.parametrize("after_s", [0.02, 0.1, 0.3])
def test_killed_during_a_write_leaves_nothing_that_looks_complete(
    server: S3Server, prefix: str, after_s: float
) -> None:
    store = open_store(server.location(prefix, **QUICK))
    killer = threading.Timer(after_s, server.kill)
    killer.start()
    try:
        save(store, BIG)
    except StoreUnavailable:
        was_saved = False
    else:
        was_saved = True
    killer.join()
    server.start()
    patient = open_store(server.location(prefix))
    kept = Generations(patient)
    if kept.load_manifest("abcd") is not None:
        assert kept.audio("abcd") == BIG
    else:
        assert not was_saved
    assert save(patient, BIG)["id"] == "abcd"  # the next try heals it
    assert kept.audio("abcd") == BIG


def test_killed_after_a_write_has_kept_it(server: S3Server, prefix: str) -> None:
    store = open_store(server.location(prefix))
    manifest = save(store, BIG)
    server.kill()
    server.start()
    assert Generations(store).load_manifest("abcd") == manifest
    assert Generations(store).audio("abcd") == BIG
    assert save(store, b"other") == manifest


def test_a_server_that_hangs_is_given_up_in_time(server: S3Server, prefix: str) -> None:
    store = open_store(server.location(prefix, connect_timeout_s=0.5, read_timeout_s=3, attempts=2))
    server.freeze()
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="can not read"):
        store.get("a")
    # two tries of three seconds and a pause; far from boto3's own minute
    assert time.monotonic() - began < 20
    server.thaw()
    assert store.get("a") is None


def test_a_write_that_was_heard_but_not_answered_is_known_as_ones_own(
    server: S3Server, prefix: str
) -> None:
    """The answer is lost, the try again meets its own object: still True, and a new version."""
    store = open_store(server.location(prefix, **QUICK))
    assert isinstance(store, S3Store)
    lose_first_answer(store)
    assert store.put_if_absent("a", b"mine")
    found = store.get_versioned("a")
    assert found is not None
    lose_first_answer(store)
    version = store.replace("a", b"mine too", found.version)
    assert version is not None
    assert store.get_versioned("a") == (b"mine too", version)
    assert not store.put_if_absent("a", b"another's")


def lose_first_answer(store: S3Store) -> None:
    """Let the next PUT reach the server, and its answer be a 500."""
    events, done = store._client.meta.events, threading.Event()

    def lose(response: Any, operation: Any, **_: Any) -> None:
        if operation.name == "PutObject" and response is not None and not done.is_set():
            done.set()
            response[0].status_code = 500
            response[1]["ResponseMetadata"]["HTTPStatusCode"] = 500
            response[1]["Error"] = {"Code": "InternalError", "Message": "lost"}

    events.register_first("needs-retry.s3", lose)


def test_the_breaker_opens_and_closes(server: S3Server, prefix: str) -> None:
    store = open_store(server.location(prefix, **QUICK))
    server.kill()
    told = [refusal(store) for _ in range(6)]
    assert not any("lately" in message for message in told[:4])
    assert "did not answer lately" in told[-1]
    began = time.monotonic()
    for _ in range(100):
        assert "lately" in refusal(store)
    assert time.monotonic() - began < 1  # nobody was asked
    server.start()
    deadline = time.monotonic() + 15
    while "lately" in refusal(store, is_up=True):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    store.put("a", b"1")
    assert store.get("a") == b"1"


def refusal(store: Store, *, is_up: bool = False) -> str:
    try:
        store.get("a")
    except StoreUnavailable as error:
        return error.message
    assert is_up
    return ""


def test_a_no_is_told_at_once_and_does_not_open_the_breaker(
    server: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = open_store(server.location("x", url="s3://no-such-bucket"))
    for _ in range(7):
        with pytest.raises(StoreUnavailable, match=r"bucket does not exist.*NoSuchBucket"):
            missing.get("a")
    with pytest.raises(StoreUnavailable, match="bucket does not exist"):
        missing.list()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    wrong = open_store(server.location(prefix))
    for _ in range(7):
        with pytest.raises(StoreUnavailable, match="the secret key is wrong"):
            wrong.get("a")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER[1])
    reader = open_store(server.location(prefix))
    assert reader.get("a") is None
    with pytest.raises(StoreUnavailable, match=r"may not do that here \(AccessDenied\)"):
        reader.put("a", b"")


def test_missing_credentials_are_named(
    server: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(StoreUnavailable, match="set AWS_ACCESS_KEY_ID"):
        open_store(server.location(prefix)).get("a")


def test_a_link_serves_one_object(server: S3Server, prefix: str) -> None:
    store = open_store(server.location(prefix))
    store.put("a", b"sound")
    found = link(store)
    assert found is not None
    with urllib.request.urlopen(found, timeout=10) as answer:
        assert answer.read() == b"sound"
        assert answer.headers["Content-Type"] == "audio/wav"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(found.replace("/a?", "/b?"), timeout=10)


def test_a_wrong_clock_makes_no_dead_links(
    server: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for skew in (timedelta(hours=-1), timedelta(hours=1)):
        with monkeypatch.context() as clock:
            clock.setattr(botocore.auth, "get_current_datetime", skewed(skew))
            clock.setattr(s3, "_unix_s", lambda skew=skew: time.time() + skew.total_seconds())
            store = open_store(server.location(prefix))
            blind = link(store)
            assert blind is not None
            with pytest.raises(StoreUnavailable, match="this machine's clock is wrong"):
                store.put("a", b"sound")
            seeing = link(store)
        open_store(server.location(prefix)).put("a", b"sound")
        if skew > timedelta(0):
            assert seeing is None  # nobody can sign with a clock that is ahead
            continue
        with pytest.raises(urllib.error.HTTPError, match="403"):  # had run out before it was made
            urllib.request.urlopen(blind, timeout=10)
        assert seeing is not None
        with urllib.request.urlopen(seeing, timeout=10) as answer:
            assert answer.read() == b"sound"


def link(store: Store) -> str | None:
    return store.link("a", expires_s=60, media_type="audio/wav", file_name="a.wav")


def skewed(by: timedelta) -> Any:
    return lambda remove_tzinfo=True: (datetime.now(UTC) + by).replace(
        tzinfo=None if remove_tzinfo else UTC
    )


def test_what_is_written_is_encrypted_as_asked(server: S3Server, prefix: str) -> None:
    store = open_store(server.location(prefix, encryption="AES256"))
    store.put("a", b"secret")
    head = server.client().head_object(Bucket="bark", Key=f"{prefix}/a")
    assert head["ServerSideEncryption"] == "AES256"
    assert store.get("a") == b"secret"


def test_a_folder_and_a_bucket_are_laid_out_alike(
    server: S3Server, prefix: str, tmp_path: Path
) -> None:
    folder, bucket = open_store(tmp_path), open_store(server.location(prefix))
    assert save(folder) == save(bucket)
    keys = folder.list()
    assert keys == bucket.list()
    assert [folder.get(key) for key in keys] == [bucket.get(key) for key in keys]
