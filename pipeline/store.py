"""Bytes under keys, and what we keep there: voices, generations.

```
voices/{name}.npz, .json                             the json last
generations/{id[:2]}/{id}/audio.<format>
                          tokens.npz
                          manifest.json              last: without it there is no generation
```

`Store` is what an object store can promise (whole objects, a conditional create, listing by
prefix), so that S3 can stand behind the same names. Knows nothing of how sound is made.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InvalidRequest, StoreUnavailable, VoiceNotFound
from pipeline.payloads import HistoryPrompt

# A part of a key: never hidden, never "..", fit for every file system and URL.
_PART = r"[A-Za-z0-9_][A-Za-z0-9._=@+-]{0,199}"
_KEY = re.compile(rf"{_PART}(?:/{_PART})*")
_VOICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,63})?")
_GENERATION_ID = re.compile(r"[A-Za-z0-9_-]{4,128}")
_FORMAT = re.compile(r"[a-z0-9]{1,16}")
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


def pack_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return an .npz; equal arrays give equal bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(
                member, np.asarray(arrays[name], order="C"), allow_pickle=False
            )
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(info, member.getvalue())
    return file.getvalue()


# ── generations ──────────────────────────────────────────────────────────────────────────────────
class Generations:
    """Finished generations by id. The same id is the same sound, so the first one stays."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def save(
        self,
        generation_id: str,
        audio: bytes,
        audio_format: str,
        tokens: Mapping[str, NDArray[Any]],
        manifest: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Keep a generation, and return the manifest that is now in the store.

        The manifest goes last, with `id`, `format` and `sha256` (of the stored audio) added.
        Saving an id again changes nothing, whoever was first and wherever they were killed.

        Raises:
            StoreUnavailable: nothing complete was left behind; save it again.
        """
        if not _FORMAT.fullmatch(audio_format):
            raise InvalidRequest(f"{audio_format!r} is no audio format")
        folder = self._folder(generation_id)
        stored = self.load_manifest(generation_id)
        if stored is not None:
            return stored
        audio_key = f"{folder}/audio.{audio_format}"
        if not self._store.put_if_absent(audio_key, audio):
            # Of a writer that was killed, or is a moment ahead: the manifest must describe it.
            audio = self._store.get(audio_key) or audio
        self._store.put_if_absent(f"{folder}/tokens.npz", pack_arrays(tokens))
        ours = {
            **manifest,
            "id": generation_id,
            "format": audio_format,
            "sha256": hashlib.sha256(audio).hexdigest(),
        }
        if self._store.put_if_absent(f"{folder}/manifest.json", _to_json(ours)):
            return ours
        return self.load_manifest(generation_id) or ours

    def load_manifest(self, generation_id: str) -> dict[str, Any] | None:
        """Return the manifest; None if there is no such generation, or none that is complete."""
        return _load_json(self._store, f"{self._folder(generation_id)}/manifest.json")

    def load_tokens(self, generation_id: str) -> dict[str, NDArray[Any]] | None:
        """Return the arrays that were saved; None as for `load_manifest`."""
        if self.load_manifest(generation_id) is None:
            return None
        key = f"{self._folder(generation_id)}/tokens.npz"
        data = self._store.get(key)
        if data is None:
            return None
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (ValueError, OSError, EOFError) as error:
            raise StoreUnavailable(f"{key} is damaged: {error}") from error

    def audio(self, generation_id: str) -> bytes | None:
        """Return the audio file, in the manifest's `format`; None as for `load_manifest`."""
        manifest = self.load_manifest(generation_id)
        if manifest is None:
            return None
        return self._store.get(f"{self._folder(generation_id)}/audio.{manifest['format']}")

    def delete(self, generation_id: str) -> bool:
        """Remove a generation; False if there was none."""
        folder = self._folder(generation_id)
        was_there = self._store.delete(f"{folder}/manifest.json")
        for key in self._store.list(f"{folder}/"):
            self._store.delete(key)
        return was_there

    def list(self) -> list[str]:
        """Return the ids of all complete generations."""
        keys = self._store.list("generations/")
        return [key.split("/")[-2] for key in keys if key.endswith("/manifest.json")]

    @staticmethod
    def _folder(generation_id: str) -> str:
        if not _GENERATION_ID.fullmatch(generation_id):
            raise InvalidRequest(f"{generation_id[:100]!r} is no generation id")
        return f"generations/{generation_id[:2]}/{generation_id}"


# ── voices ───────────────────────────────────────────────────────────────────────────────────────
def check_voice_name(name: str) -> str:
    """Return a voice's name: letters, digits, `.`, `_`, `-`; at most one folder, as in `v2/x`.

    Raises:
        InvalidRequest: anything else, so that a name can not leave its folder.
    """
    if not _VOICE_NAME.fullmatch(name) or name.endswith((".npz", ".json")):
        raise InvalidRequest(
            f"{name[:100]!r} is no voice name: use up to 64 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit; one folder may stand before it, as in v2/narrator"
        )
    return name


class Voices:
    """The voice presets of our own: arrays for the stages, and a record for people."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, name: str, prompt: HistoryPrompt, record: Mapping[str, Any]) -> None:
        """Keep a voice. Adding the same arrays again is no error, and keeps the first record.

        Raises:
            InvalidRequest: not a name, or the name of another voice.
        """
        arrays_key, record_key = _voice_keys(name)
        arrays = pack_arrays(prompt.as_mapping())
        is_new = self._store.put_if_absent(arrays_key, arrays)
        if not is_new and self._store.get(arrays_key) != arrays:
            raise InvalidRequest(f"there is another voice named {name!r}; remove it first")
        self._store.put_if_absent(record_key, _to_json({**record, "name": name}))

    def read(self, name: str) -> bytes:
        """Return the .npz.

        Raises:
            VoiceNotFound: no voice of this name.
        """
        data = self._store.get(_voice_keys(name)[0])
        if data is None:
            raise VoiceNotFound(f"there is no voice named {name!r} in the store")
        return data

    def show(self, name: str) -> dict[str, Any] | None:
        """Return the record; None if the store has none (a checkpoint's presets have none)."""
        return _load_json(self._store, _voice_keys(name)[1])

    def remove(self, name: str) -> bool:
        """Remove a voice, whole or half written; False if there was none."""
        arrays_key, record_key = _voice_keys(name)
        had_record = self._store.delete(record_key)
        return self._store.delete(arrays_key) or had_record

    def list(self) -> list[str]:
        """Return the names of all voices that are complete."""
        keys = self._store.list("voices/")
        records = (key for key in keys if key.endswith(".json"))
        return [key.removeprefix("voices/").removesuffix(".json") for key in records]


def _voice_keys(name: str) -> tuple[str, str]:
    check_voice_name(name)
    return f"voices/{name}.npz", f"voices/{name}.json"


def _to_json(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=2, sort_keys=True)
    return text.encode() + b"\n"


def _load_json(store: Store, key: str) -> dict[str, Any] | None:
    data = store.get(key)
    if data is None:
        return None
    try:
        content = json.loads(data)
    except ValueError as error:
        raise StoreUnavailable(f"{key} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise StoreUnavailable(f"{key} is damaged: no JSON object")
    return content
