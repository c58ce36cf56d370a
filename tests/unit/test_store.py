"""What every store promises, on a folder and on a real S3 server."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from s3_server import S3Server

from pipeline.errors import InvalidRequest
from pipeline.generations import Generations
from pipeline.store import Store, open_store
from pipeline.store.local import LocalStore

BACKENDS = ("folder", "s3")


@pytest.fixture(params=BACKENDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return open_store(tmp_path / "data")
    server: S3Server = request.getfixturevalue("s3")
    return open_store(server.location(uuid.uuid4().hex))


def test_objects_are_put_replaced_listed_and_deleted(store: Store) -> None:
    assert store.get("jobs/1.json") is None
    store.put("jobs/1.json", b"one")
    store.put("jobs/1.json", b"two")
    store.put("jobs/10.json", b"")
    store.put("voices/v2/a.npz", b"x")
    assert store.get("jobs/1.json") == b"two"
    assert store.get("jobs/10.json") == b""
    assert store.list() == ["jobs/1.json", "jobs/10.json", "voices/v2/a.npz"]
    assert store.list("jobs/1.") == ["jobs/1.json"]
    assert store.list("voices/") == ["voices/v2/a.npz"]
    assert store.list("nothing/") == []
    assert store.delete("jobs/1.json")
    assert not store.delete("jobs/1.json")
    assert store.get("jobs/1.json") is None


def test_first_create_wins_and_its_bytes_stay(store: Store) -> None:
    assert store.put_if_absent("a", b"first")
    assert not store.put_if_absent("a", b"second")
    assert store.get("a") == b"first"


def test_more_than_a_page_of_keys_is_listed(store: Store) -> None:
    count = 1050 if isinstance(store, LocalStore) else 1005
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: store.put(f"many/{n:04}", b""), range(count)))
    assert store.list("many/") == [f"many/{n:04}" for n in range(count)]


def test_parts_of_an_object_are_read(store: Store) -> None:
    store.put("a", bytes(range(100)))
    assert store.size("a") == 100
    assert store.read("a", 10, 20) == bytes(range(10, 20))
    assert store.read("a", 90, 200) == bytes(range(90, 100))
    assert store.size("b") is None
    assert store.read("b", 0, 1) is None


def test_a_large_object_arrives_whole_and_only_once(store: Store) -> None:
    """On S3 it goes up in three parts, and the last step asks for the absence of the key."""
    large = bytes(range(256)) * (40 << 12)  # 40 MiB
    assert store.put_if_absent("large", large)
    assert not store.put_if_absent("large", large[::-1])
    assert store.size("large") == len(large)
    assert store.get("large") == large
    store.put("large", b"small")
    assert store.get("large") == b"small"


def test_replacing_asks_for_the_version(store: Store) -> None:
    store.put("a", b"one")
    found = store.get_versioned("a")
    assert found is not None
    assert found.data == b"one"
    second = store.replace("a", b"two", found.version)
    assert second is not None
    assert store.replace("a", b"three", found.version) is None
    assert store.get("a") == b"two"
    assert store.replace("a", b"three", second) is not None
    assert store.get_versioned("b") is None
    assert store.replace("b", b"", second) is None


def test_of_sixteen_writers_one_creates(store: Store) -> None:
    start = threading.Barrier(16)

    def race(number: int) -> bool:
        start.wait()
        return store.put_if_absent("race", b"%d" % number)

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(race, range(16)))
    assert won.count(True) == 1
    assert store.get("race") == b"%d" % won.index(True)


def test_of_sixteen_replacers_of_a_version_one_succeeds(store: Store) -> None:
    """Each adds one, as often as it takes: none of the sixteen additions is lost."""
    store.put("count", b"0")

    def add_one(_: int) -> int:
        for attempt in range(1, 500):
            found = store.get_versioned("count")
            assert found is not None
            if store.replace("count", b"%d" % (int(found.data) + 1), found.version):
                return attempt
        raise AssertionError("never won")

    with ThreadPoolExecutor(16) as pool:
        attempts = list(pool.map(add_one, range(16)))
    assert store.get("count") == b"16"
    assert max(attempts) > 1  # they did get in each other's way


def test_sixteen_writers_of_one_id_get_one_answer(store: Store) -> None:
    start = threading.Barrier(16)

    def save(number: int) -> dict[str, object]:
        start.wait()
        return Generations(store).save("abcd", b"%d" % number, "wav", {}, {"made_by": number})

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(save, range(16)))
    assert all(answer == answers[0] for answer in answers)
    kept = Generations(store).load_manifest("abcd")
    assert kept == answers[0]
    assert store.list() == [
        "generations/ab/abcd/audio.wav",
        "generations/ab/abcd/manifest.json",
        "generations/ab/abcd/tokens.npz",
    ]


@pytest.mark.parametrize("key", ["", "/a", "a/", "../a", "a/../b", ".hidden", "a//b", "a b", "ä"])
def test_key_that_would_leave_the_store_is_refused(store: Store, key: str) -> None:
    for act in (store.get, store.get_versioned, store.size, store.delete):
        with pytest.raises(InvalidRequest, match="no key"):
            act(key)
    with pytest.raises(InvalidRequest, match="no key"):
        store.put_if_absent(key, b"")
    with pytest.raises(InvalidRequest, match="no key"):
        store.read(key, 0, 1)
    with pytest.raises(InvalidRequest, match="no key"):
        store.link(key, expires_s=60, media_type="audio/wav", file_name="a.wav")


@pytest.mark.parametrize("url", ["s3://", "s3:///prefix", "gs://bucket/x", "s3://bucket/../x"])
def test_no_address_of_a_store(url: str) -> None:
    with pytest.raises(InvalidRequest, match=r"s3://bucket/prefix|no key"):
        open_store(url)
