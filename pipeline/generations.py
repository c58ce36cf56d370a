"""Finished generations in a store: the sound, its tokens, and a manifest of how it was made.

```
generations/{id[:2]}/{id}/audio.<format>
                          tokens.npz
                          manifest.json              last: without it there is no generation
                          held/{job}                 whose it is: with the last of them it goes
```
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from pipeline.errors import InvalidRequest, StoreUnavailable
from pipeline.file_formats import pack_arrays, pack_json, unpack_arrays, unpack_json
from pipeline.store import Store

_GENERATION_ID = re.compile(r"[A-Za-z0-9_-]{4,128}")
_FORMAT = re.compile(r"[a-z0-9]{1,16}")


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
        folder = _folder(generation_id)
        stored = self.load_manifest(generation_id)
        if stored is not None:
            if self._store.size(audio_key(generation_id, stored["format"])) is None:
                self._heal(stored, audio, audio_format)
            return stored
        place = audio_key(generation_id, audio_format)
        if not self._store.put_if_absent(place, audio):
            # Of a writer that was killed, or is a moment ahead: the manifest must describe it.
            audio = self._store.get(place) or audio
        self._store.put_if_absent(f"{folder}/tokens.npz", pack_arrays(tokens))
        ours = {
            **manifest,
            "id": generation_id,
            "format": audio_format,
            "sha256": hashlib.sha256(audio).hexdigest(),
        }
        if self._store.put_if_absent(f"{folder}/manifest.json", pack_json(ours)):
            return ours
        return self.load_manifest(generation_id) or ours

    def _heal(self, stored: Mapping[str, Any], audio: bytes, audio_format: str) -> None:
        """Put lost audio back; what differs (a signature does, each time) is described anew."""
        digest = hashlib.sha256(audio).hexdigest()
        self._store.put(audio_key(stored["id"], audio_format), audio)
        if (audio_format, digest) != (stored["format"], stored["sha256"]):
            renewed = {**stored, "format": audio_format, "sha256": digest}
            self._store.put(f"{_folder(stored['id'])}/manifest.json", pack_json(renewed))

    def hold(self, generation_id: str, holder: str) -> None:
        """Note that somebody needs a generation, who may be before it is saved."""
        self._store.put_if_absent(f"{_folder(generation_id)}/held/{holder}", b"")

    def release(self, generation_id: str, holder: str) -> bool:
        """Take a holder's note away, and the generation if nobody else needs it; True if it went.

        One that nobody ever held (made by `say`, or kept by a request) is not a job's to remove.
        """
        folder = _folder(generation_id)
        if not self._store.delete(f"{folder}/held/{holder}"):
            return False
        if self._store.list(f"{folder}/held/"):
            return False
        return self.delete(generation_id)

    def load_manifest(self, generation_id: str) -> dict[str, Any] | None:
        """Return the manifest; None if there is no such generation, or none that is complete."""
        key = f"{_folder(generation_id)}/manifest.json"
        data = self._store.get(key)
        if data is None:
            return None
        found = unpack_json(data, key)
        if missing := {"id", "format", "sha256"} - found.keys():
            raise StoreUnavailable(f"{key} is damaged: no {', '.join(sorted(missing))}")
        return found

    def load_tokens(self, generation_id: str) -> dict[str, NDArray[Any]] | None:
        """Return the arrays that were saved; None as for `load_manifest`."""
        if self.load_manifest(generation_id) is None:
            return None
        key = f"{_folder(generation_id)}/tokens.npz"
        data = self._store.get(key)
        return None if data is None else unpack_arrays(data, key)

    def audio(self, generation_id: str) -> bytes | None:
        """Return the audio file, in the manifest's `format`; None as for `load_manifest`."""
        manifest = self.load_manifest(generation_id)
        if manifest is None:
            return None
        return self._store.get(audio_key(generation_id, manifest["format"]))

    def delete(self, generation_id: str) -> bool:
        """Remove a generation; False if there was none."""
        folder = _folder(generation_id)
        was_there = self._store.delete(f"{folder}/manifest.json")
        for key in self._store.list(f"{folder}/"):
            self._store.delete(key)
        return was_there

    def list(self) -> list[str]:
        """Return the ids of all complete generations."""
        keys = self._store.list("generations/")
        return [key.split("/")[-2] for key in keys if key.endswith("/manifest.json")]


def audio_key(generation_id: str, audio_format: str) -> str:
    """Return where the sound of a generation lies in a store."""
    return f"{_folder(generation_id)}/audio.{audio_format}"


def rendition_key(generation_id: str, audio_format: str, speed: float) -> str:
    """Return where the same sound lies in another format, or faster or slower."""
    pace = "" if speed == 1 else f"-{speed:g}x"
    return f"{_folder(generation_id)}/audio{pace}.{audio_format}"


def _folder(generation_id: str) -> str:
    if not _GENERATION_ID.fullmatch(generation_id):
        raise InvalidRequest(f"{generation_id[:100]!r} is no generation id")
    return f"generations/{generation_id[:2]}/{generation_id}"
