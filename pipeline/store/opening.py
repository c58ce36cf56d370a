"""From an address to a store."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import InvalidRequest
from pipeline.store.contract import Store
from pipeline.store.local import LocalStore
from pipeline.store.location import StoreLocation


def open_store(location: StoreLocation | str | Path) -> Store:
    """Return the store; nothing is read or written yet.

    Raises:
        InvalidRequest: an address that names no bucket, or of a kind that is not known.
    """
    if not isinstance(location, StoreLocation):
        location = StoreLocation(str(location))
    if location.is_bucket:
        from pipeline.store.s3 import S3Store  # boto3 takes half a second

        return S3Store(location)
    if "://" in location.url:
        raise InvalidRequest(f"a store is a folder or s3://bucket/prefix, not {location.url!r}")
    return LocalStore(location.url)
