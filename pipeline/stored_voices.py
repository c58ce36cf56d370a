"""Voice presets of our own, in a store: arrays for the stages, and a record for people.

```
voices/{name}.npz
       {name}.json                                   last: without it there is no voice
```

The rule of a voice's name stands here, since a name becomes a key. How presets of every origin
are read and checked is `voices.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipeline.errors import InvalidRequest, VoiceNotFound
from pipeline.file_formats import pack_arrays, pack_json, unpack_json
from pipeline.payloads import HistoryPrompt
from pipeline.store import Store

_VOICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,63})?")


def check_voice_name(name: str) -> str:
    """Return a voice's name: letters, digits, `.`, `_`, `-`; at most one folder, as in `v2/x`.

    Raises:
        InvalidRequest: anything else, so that a name can not leave its folder.
    """
    if not is_voice_name(name):
        raise InvalidRequest(
            f"{name[:100]!r} is no voice name: use up to 64 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit; one folder may stand before it, as in v2/narrator"
        )
    return name


def is_voice_name(name: str) -> bool:
    """Say whether a voice may have this name."""
    return bool(_VOICE_NAME.fullmatch(name)) and not name.endswith((".npz", ".json"))


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
        self._store.put_if_absent(record_key, pack_json({**record, "name": name}))

    def read(self, name: str) -> bytes:
        """Return the .npz.

        Raises:
            VoiceNotFound: no voice of this name.
        """
        data = self._store.get(_voice_keys(name)[0])
        if data is None:
            raise VoiceNotFound(f"there is no voice named {name!r} in the store")
        return data

    def has_arrays(self, name: str) -> bool:
        """Say whether a voice of this name is there, if only half written."""
        return self._store.size(_voice_keys(name)[0]) is not None

    def show(self, name: str) -> dict[str, Any] | None:
        """Return the record; None if the store has none (a checkpoint's presets have none)."""
        record_key = _voice_keys(name)[1]
        data = self._store.get(record_key)
        return None if data is None else unpack_json(data, record_key)

    def remove(self, name: str) -> bool:
        """Remove a voice, whole or half written; False if there was none."""
        arrays_key, record_key = _voice_keys(name)
        had_record = self._store.delete(record_key)
        return self._store.delete(arrays_key) or had_record

    def list(self) -> list[str]:
        """Return the names of all voices that are complete."""
        keys = self._store.list("voices/")
        records = (key for key in keys if key.endswith(".json"))
        names = (key.removeprefix("voices/").removesuffix(".json") for key in records)
        return [name for name in names if is_voice_name(name)]


def _voice_keys(name: str) -> tuple[str, str]:
    check_voice_name(name)
    return f"voices/{name}.npz", f"voices/{name}.json"
