"""Bytes under keys: what an object store can promise, a folder and an S3 bucket that fulfil it."""

from pipeline.store.contract import Store, Versioned
from pipeline.store.location import StoreLocation
from pipeline.store.opening import open_store

__all__ = ["Store", "StoreLocation", "Versioned", "open_store"]
