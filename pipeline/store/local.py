"""Bytes under keys: what an object store can promise, and a folder that fulfils it.

`Store` asks for whole objects, a conditional create and listing by prefix, so that S3 can stand
behind the same names. Knows nothing of what is kept: `generations.py` and `stored_voices.py` do.
"""

from __future__ import annotations

import errno
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

from pipeline.errors import InvalidRequest, StoreUnavailable

# A part of a key: never hidden, never "..", fit for every file system and URL.
_PART = r"[A-Za-z0-9_][A-Za-z0-9._=@+-]{0,199}"
_KEY = re.compile(rf"{_PART}(?:/{_PART})*")
# An unfinished write this old belongs to a process that died.
_STALE_S: Final = 24 * 3600.0


class Store(Protocol):
    """Bytes under keys such as `jobs/7.json`. Safe to share between threads and processes.

    Every method raises StoreUnavailable where the medium fails, and InvalidRequest for a key
    that is none. An object is there as a whole or not at all.
    """

    def get(self, key: str) -> bytes | None:
        """Return the object, None if there is none."""
        ...

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create the object; of many who try at once, one gets True, and its bytes stay."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Create or replace the object."""
        ...

    def delete(self, key: str) -> bool:
        """Remove the object; False if there was none."""
        ...

    def list(self, prefix: str = "") -> list[str]:
        """Return every key that begins so, sorted."""
        ...


class LocalStore:
    """A store in a folder of this machine, or of a file system that several machines share.

    What `put` and `put_if_absent` return from has reached the disk. A process killed halfway
    leaves a file in `.tmp`, which a later start removes, and nothing under the key.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._tmp = self.root / ".tmp"  # made by the first write: reading leaves no trace
        self._sweep()

    def get(self, key: str) -> bytes | None:
        path = self.path(key)
        with _explained("read", path):
            try:
                return path.read_bytes()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                return None

    def put_if_absent(self, key: str, data: bytes) -> bool:
        path = self.path(key)
        if path.exists():
            return False  # spares the write; the link below is what decides
        return self._write(path, data, _link)

    def put(self, key: str, data: bytes) -> None:
        self._write(self.path(key), data, _replace)

    def delete(self, key: str) -> bool:
        path = self.path(key)
        with _explained("delete", path):
            try:
                path.unlink()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                return False
            _sync_folder(path.parent)
            return True

    def list(self, prefix: str = "") -> list[str]:
        folder, _, _ = prefix.rpartition("/")
        if folder:
            _check_key(folder)
        with _explained("list", self.root / folder):
            return sorted(key for key in self._walk(folder) if key.startswith(prefix))

    def path(self, key: str) -> Path:
        """Return where an object lies, or would lie.

        Raises:
            InvalidRequest: the key would leave the store.
        """
        return self.root / _check_key(key)

    def _walk(self, folder: str) -> Iterator[str]:
        try:
            entries = [*os.scandir(self.root / folder)]
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            if not _KEY.fullmatch(entry.name):
                continue  # ours are `.tmp` and `.lock`
            key = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir():
                yield from self._walk(key)
            else:
                yield key

    def _write(self, path: Path, data: bytes, publish: Callable[[Path, Path], bool]) -> bool:
        with _explained("write", path):
            _make_folders(self._tmp)
            return _write(self._tmp / uuid.uuid4().hex, path, data, publish)

    def _sweep(self) -> None:
        """Remove what dead writers left; a live one needs no day."""
        with suppress(OSError):
            for draft in self._tmp.iterdir():
                with suppress(OSError):
                    if time.time() - draft.stat().st_mtime > _STALE_S:
                        draft.unlink()


def _write(draft: Path, path: Path, data: bytes, publish: Callable[[Path, Path], bool]) -> bool:
    """Write the draft, then let `publish` move it into place in one step; True if it did."""
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _make_folders(path.parent)
        is_new = publish(draft, path)
        _sync_folder(path.parent)
        return is_new
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _link(draft: Path, path: Path) -> bool:
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        return _replace_unless_there(draft, path)
    return True


def _replace_unless_there(draft: Path, path: Path) -> bool:
    """Do what `_link` does where a file system has no hard links (exFAT, some network drives)."""
    import fcntl  # not on Windows, whose usual file system has hard links

    with (draft.parent.parent / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the process
        return not path.exists() and _replace(draft, path)


def _replace(draft: Path, path: Path) -> bool:
    os.replace(draft, path)
    return True


def _make_folders(folder: Path) -> None:
    """Create a folder and make its name last: a synced file in an unsynced folder can vanish."""
    if folder.is_dir():
        return
    _make_folders(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # Windows opens no folders
    try:
        with suppress(OSError):  # some network drives refuse; the data itself is synced
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_key(key: str) -> str:
    if len(key) > 1000 or not _KEY.fullmatch(key):
        raise InvalidRequest(f"{key[:100]!r} is no key of a store")
    return key


@contextmanager
def _explained(verb: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, "no errno")
        reason = error.strerror or str(error)
        raise StoreUnavailable(f"can not {verb} {path}: {reason} ({code})") from error


def replace_file(path: Path, data: bytes) -> None:
    """Write a file anywhere, whole or not at all.

    Raises:
        StoreUnavailable: it can not be written; what was there before still is.
    """
    with _explained("write", path):
        _write(path.with_name(f".{path.name}.{uuid.uuid4().hex}"), path, data, _replace)
