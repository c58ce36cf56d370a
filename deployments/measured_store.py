"""A store whose calls are timed and counted, whatever store it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from deployments import metrics
from pipeline.errors import StoreUnavailable
from pipeline.store import Store, Versioned

_T = TypeVar("_T")


class MeasuredStore:
    """Passes every call on; see `pipeline.store.Store`.

    plain: the store itself.
    """

    def __init__(self, plain: Store) -> None:
        self.plain = plain

    def get(self, key: str) -> bytes | None:
        return _timed("get", lambda: self.plain.get(key))

    def get_versioned(self, key: str) -> Versioned | None:
        return _timed("get_versioned", lambda: self.plain.get_versioned(key))

    def size(self, key: str) -> int | None:
        return _timed("size", lambda: self.plain.size(key))

    def read(self, key: str, start: int, stop: int) -> bytes | None:
        return _timed("read", lambda: self.plain.read(key, start, stop))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return _timed("put_if_absent", lambda: self.plain.put_if_absent(key, data))

    def put(self, key: str, data: bytes) -> None:
        return _timed("put", lambda: self.plain.put(key, data))

    def replace(self, key: str, data: bytes, version: str) -> str | None:
        return _timed("replace", lambda: self.plain.replace(key, data, version))

    def delete(self, key: str, version: str | None = None) -> bool:
        return _timed("delete", lambda: self.plain.delete(key, version))

    def list(self, prefix: str = "") -> list[str]:
        return _timed("list", lambda: self.plain.list(prefix))

    def link(self, key: str, *, expires_s: int, media_type: str, file_name: str) -> str | None:
        # asks nobody: there is nothing to time
        return self.plain.link(key, expires_s=expires_s, media_type=media_type, file_name=file_name)


def _timed(operation: str, call: Callable[[], _T]) -> _T:
    began_s = time.monotonic()
    try:
        return call()
    except StoreUnavailable:
        metrics.STORE_ERRORS.add(operation=operation)
        raise
    finally:
        metrics.STORE_SECONDS.observe(time.monotonic() - began_s, operation=operation)
