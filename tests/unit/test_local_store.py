"""The store: whole objects or none, whoever races, dies or runs out of disk."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import InvalidRequest, StoreUnavailable
from pipeline.generations import Generations
from pipeline.store import Store
from pipeline.store.local import LocalStore, replace_file

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "data")


def files(store: LocalStore) -> list[str]:
    found = (path for path in store.root.rglob("*") if path.is_file())
    return sorted(path.relative_to(store.root).as_posix() for path in found)


def python(code: str, *args: object) -> subprocess.Popen[str]:
    """Start a process that has imported the store."""
    code = f"import os, sys, time\nfrom pipeline.store.local import LocalStore\n{code}"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


# ── objects ──────────────────────────────────────────────────────────────────────────────────────
def test_a_folder_is_no_object(store: Store) -> None:
    store.put("a/b", b"x")
    assert store.get("a") is None
    assert store.get("a/b/c") is None
    assert not store.delete("a")
    assert not store.delete("a/b/c")
    assert store.list("a/b/") == []


def test_reading_leaves_no_trace(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "data")
    assert store.get("a") is None
    assert store.list() == []
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "key",
    [
        *("", ".", "..", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "/a", ".tmp/x", "a/.b"),
        *("a\\b", "a\0b", "a\n", "ä", "a b", "C:x", "a" * 201, "a/" * 600 + "a"),
    ],
    ids=repr,
)
def test_key_that_would_leave_the_store_is_refused(store: LocalStore, key: str) -> None:
    for act in (store.get, store.delete, store.path, lambda k: store.put(k, b"")):
        with pytest.raises(InvalidRequest, match="no key"):
            act(key)
    with pytest.raises(InvalidRequest, match="no key"):
        store.put_if_absent(key, b"")


# ── races, kills, full disks ─────────────────────────────────────────────────────────────────────
RACE = """
store, start = LocalStore(sys.argv[1]), float(sys.argv[3])
content = sys.argv[2].encode() * 100_000
if len(sys.argv) > 4:
    def no_links(*_):
        raise OSError(95, "Operation not supported")
    def slow_replace(*paths, replace=os.replace):
        time.sleep(0.2)  # between the look and the move
        replace(*paths)
    os.link, os.replace = no_links, slow_replace
time.sleep(max(0, start - time.time()))
print(store.put_if_absent("shared/key", content))
"""


@pytest.mark.parametrize("mode", [[], ["no links"]], ids=["hard links", "no hard links"])
def test_of_sixteen_processes_one_creates(store: LocalStore, mode: list[str]) -> None:
    start = time.time() + 2.0
    racers = {f"{i:x}": python(RACE, store.root, f"{i:x}", start, *mode) for i in range(16)}
    said = {name: racer.communicate(timeout=60)[0].strip() for name, racer in racers.items()}
    winners = [name for name, answer in said.items() if answer == "True"]
    assert sorted(said.values()) == ["False"] * 15 + ["True"], said
    assert store.get("shared/key") == winners[0].encode() * 100_000
    assert set(files(store)) - {".lock"} == {"shared/key"}


KILLED = """
store = LocalStore(sys.argv[1])
print("ready", flush=True)
getattr(store, sys.argv[2])("big", b"x" * 300_000_000)
print("done", flush=True)
"""


@pytest.mark.parametrize("method", ["put", "put_if_absent"])
def test_killed_writer_leaves_nothing_under_the_key(store: LocalStore, method: str) -> None:
    writer = python(KILLED, store.root, method)
    drafts: list[Path] = []
    while not drafts and writer.poll() is None:
        drafts = [*store.root.glob(".tmp/*")]
    writer.send_signal(signal.SIGKILL)
    output, _ = writer.communicate(timeout=60)
    assert "done" not in output, "the write was over before the kill: make it larger"
    assert drafts, output
    assert store.get("big") is None
    assert store.list() == []
    # What is left is swept a day later, and does not stop anyone.
    assert store.put_if_absent("big", b"new")
    (draft,) = store.root.glob(".tmp/*")
    LocalStore(store.root)
    assert draft.exists()
    os.utime(draft, (0, 0))
    LocalStore(store.root)
    assert files(store) == ["big"]


FULL = """
import resource
from pipeline.errors import StoreUnavailable
from pipeline.generations import Generations
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
store = LocalStore(sys.argv[1])
store.put("small", b"old")
for write in (
    lambda: store.put("big", b"x" * 1_000_000),
    lambda: store.put_if_absent("big", b"x" * 1_000_000),
    lambda: store.put("small", b"x" * 1_000_000),
    lambda: Generations(store).save("abcd", b"x" * 1_000_000, "wav", {}, {}),
):
    try:
        write()
    except StoreUnavailable as error:
        print(error)
"""


def test_full_disk_is_reported_and_leaves_nothing(store: LocalStore) -> None:
    writer = python(FULL, store.root)
    output, _ = writer.communicate(timeout=60)
    lines = output.splitlines()
    assert len(lines) == 4, output
    assert lines[0] == f"can not write {store.root / 'big'}: File too large (EFBIG)"
    assert store.get("small") == b"old"
    assert files(store) == ["small"]
    assert Generations(store).load_manifest("abcd") is None


def test_store_below_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    broken = LocalStore(tmp_path / "file" / "data")
    for act in (lambda: broken.put("a", b""), lambda: broken.put_if_absent("a", b"")):
        with pytest.raises(StoreUnavailable, match=r"can not write .*data/a: .* \(ENOTDIR\)"):
            act()
    assert broken.get("a") is None


def test_every_operation_names_path_and_reason(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_args: object, **_more: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    store.put("a", b"")
    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(StoreUnavailable, match=r"can not read .*/a: Permission denied \(EACCES\)"):
        store.get("a")
    monkeypatch.setattr(Path, "unlink", denied)
    with pytest.raises(StoreUnavailable, match=r"can not delete .*/a: Permission denied"):
        store.delete("a")
    monkeypatch.setattr("pipeline.store.local.os.scandir", denied)
    with pytest.raises(StoreUnavailable, match=r"can not list .*: Permission denied"):
        store.list()


def test_replaced_file_survives_a_failed_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "with space.npz"
    replace_file(path, b"old")

    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pipeline.store.local.os.fsync", full)
    with pytest.raises(StoreUnavailable, match=r"No space left on device \(ENOSPC\)"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["with space.npz"]
