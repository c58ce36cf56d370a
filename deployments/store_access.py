"""The store, for an event loop: its calls block, so they run on threads of their own.

Not on the loop's default threads: while a bucket hangs, whatever else needs a thread goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from deployments.config import AppConfig
from deployments.measured_store import MeasuredStore
from pipeline.generations import Generations
from pipeline.jobs import Jobs
from pipeline.store import Store, open_store
from pipeline.store.local import LocalStore
from pipeline.stored_voices import Voices

_T = TypeVar("_T")
_NUM_THREADS = 16


class StoreAccess:
    """One store, or two, and the three kinds of things that lie in them."""

    def __init__(self, config: AppConfig, store: Store | None = None) -> None:
        section = config.store
        self.store = MeasuredStore(open_store(section.location) if store is None else store)
        self._voice_store = self.store
        if section.voices_url is not None:
            self._voice_store = MeasuredStore(open_store(section.voices_location))
        self.generations, self.voices = Generations(self.store), Voices(self._voice_store)
        jobs = config.jobs
        self.jobs = Jobs(
            self.store, lease_s=jobs.lease_s, keep_s=jobs.keep_s, max_attempts=jobs.max_attempts
        )
        self._pool = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="store")

    @property
    def presets(self) -> Store:
        """Where voice presets are read from: a folder is looked into, a bucket is asked."""
        plain = self._voice_store.plain
        return plain if isinstance(plain, LocalStore) else self._voice_store

    async def run(self, act: Callable[..., _T], *arguments: Any, **more: Any) -> _T:
        """Run a call of the store and await its result."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, partial(act, *arguments, **more))
