"""A store in a folder: links and renames decide, as conditional writes do on S3."""

from __future__ import annotations

import errno
import hashlib
import os
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock

from pipeline.errors import StoreUnavailable
from pipeline.store.contract import KEY, Versioned, check_key

# An unfinished write this old belongs to a process that died.
_STALE_S: Final = 24 * 3600.0
# So many replacements, of different objects, may go on at once.
_NUM_LOCKS: Final = 64


class LocalStore:
    """A store in a folder of this machine, or of a file system that several machines share.

    What `put` and `put_if_absent` return from has reached the disk. A process killed halfway
    leaves a file in `.tmp`, which a later start removes, and nothing under the key.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._tmp = self.root / ".tmp"  # made by the first write: reading leaves no trace
        self._sweep()

    @property
    def is_writable(self) -> bool:
        """Say whether something can be put here, as far as permissions tell."""
        there = next(p for p in (self.root.absolute(), *self.root.absolute().parents) if p.exists())
        return os.access(there, os.W_OK)

    def get(self, key: str) -> bytes | None:
        path = self.path(key)
        with _explained("read", path):
            try:
                return path.read_bytes()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                return None

    def get_versioned(self, key: str) -> Versioned | None:
        data = self.get(key)
        return None if data is None else Versioned(data, _version(data))

    def size(self, key: str) -> int | None:
        path = self.path(key)
        with _explained("read", path):
            return path.stat().st_size if path.is_file() else None

    def read(self, key: str, start: int, stop: int) -> bytes | None:
        path = self.path(key)
        with _explained("read", path):
            try:
                with path.open("rb") as file:
                    file.seek(start)
                    return file.read(stop - start)
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                return None

    def put_if_absent(self, key: str, data: bytes) -> bool:
        path = self.path(key)
        if path.exists():
            return False  # spares the write; the link below is what decides
        return self._write(path, data, _link)

    def put(self, key: str, data: bytes) -> None:
        self._write(self.path(key), data, _replace)

    def replace(self, key: str, data: bytes, version: str) -> str | None:
        path = self.path(key)
        with self._locked(key):
            old = self.get(key)
            if old is None or _version(old) != version:
                return None
            self._write(path, data, _replace)
            return _version(data)

    def delete(self, key: str, version: str | None = None) -> bool:
        path = self.path(key)
        if not path.is_file():
            return False
        with self._locked(key), _explained("delete", path):
            if version is not None:
                there = self.get_versioned(key)
                if there is None or there.version != version:
                    return False
            try:
                path.unlink()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                return False
            _sync_folder(path.parent)
            return True

    def list(self, prefix: str = "") -> list[str]:
        folder, _, _ = prefix.rpartition("/")
        if folder:
            check_key(folder)
        with _explained("list", self.root / folder):
            return sorted(key for key in self._walk(folder) if key.startswith(prefix))

    def link(self, key: str, *, expires_s: int, media_type: str, file_name: str) -> None:
        del expires_s, media_type, file_name  # a folder has no addresses
        check_key(key)

    def path(self, key: str) -> Path:
        """Return where an object lies, or would lie.

        Raises:
            InvalidRequest: the key would leave the store.
        """
        return self.root / check_key(key)

    def _walk(self, folder: str) -> Iterator[str]:
        try:
            entries = [*os.scandir(self.root / folder)]
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            if not KEY.fullmatch(entry.name):
                continue  # ours begin with a dot
            key = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir():
                yield from self._walk(key)
            else:
                yield key

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Let nobody else replace this object meanwhile; ends with the process."""
        folder = self.root / ".locks"
        place = folder / f"{zlib.crc32(key.encode()) % _NUM_LOCKS:02x}"
        with _explained("lock", place):
            _make_folders(folder)
            with FileLock(place):
                yield

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
    with FileLock(draft.parent.parent / ".lock"):
        return not path.exists() and _replace(draft, path)


def _replace(draft: Path, path: Path) -> bool:
    os.replace(draft, path)
    return True


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


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
