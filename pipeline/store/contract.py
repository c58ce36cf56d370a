"""Store: whole objects, conditional writes, listing by prefix. Knows nothing of what is kept.

`generations.py`, `jobs.py` and `stored_voices.py` do.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, Protocol

from pipeline.errors import InvalidRequest

# A part of a key: never hidden, never "..", fit for every file system and URL.
_PART = r"[A-Za-z0-9_][A-Za-z0-9._=@+-]{0,199}"
KEY: Final = re.compile(rf"{_PART}(?:/{_PART})*")
_MAX_KEY = 1000


class Versioned(NamedTuple):
    """An object and which of its versions this is: a tag that differs when the bytes do."""

    data: bytes
    version: str


class Store(Protocol):
    """Bytes under keys such as `jobs/7.json`. Safe to share between threads and processes.

    Every method raises StoreUnavailable where the medium fails, and InvalidRequest for a key
    that is none. An object is there as a whole or not at all.
    """

    def get(self, key: str) -> bytes | None:
        """Return the object, None if there is none."""
        ...

    def get_versioned(self, key: str) -> Versioned | None:
        """Return the object with its version, for `replace`."""
        ...

    def size(self, key: str) -> int | None:
        """Return the object's length in bytes, None if there is none."""
        ...

    def read(self, key: str, start: int, stop: int) -> bytes | None:
        """Return bytes start…stop - 1, fewer where the object ends before; None if none is there.

        0 <= start < stop, and the object is longer than `start`.
        """
        ...

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create the object; of many who try at once, one gets True, and its bytes stay."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Create or replace the object."""
        ...

    def replace(self, key: str, data: bytes, version: str) -> str | None:
        """Write only if the object still has this version; return the new one, None if it has not.

        Of many who replace one version at once, one succeeds. All who change an object in this
        way must do so: `put` asks nobody.
        """
        ...

    def delete(self, key: str, version: str | None = None) -> bool:
        """Remove the object, of this version where one is given; False if there was none."""
        ...

    def list(self, prefix: str = "") -> list[str]:
        """Return every key that begins so, sorted."""
        ...

    def link(self, key: str, *, expires_s: int, media_type: str, file_name: str) -> str | None:
        """Return an address from which anyone may read the object for a while.

        None where the medium has no such thing. The object need not exist.
        """
        ...


def check_key(key: str) -> str:
    """Return a key as it is.

    Raises:
        InvalidRequest: it would leave the store, or some medium could not hold it.
    """
    if len(key) > _MAX_KEY or not KEY.fullmatch(key):
        raise InvalidRequest(f"{key[:100]!r} is no key of a store")
    return key
