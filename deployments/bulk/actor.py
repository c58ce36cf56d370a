"""What every actor of a bulk job does: rows out of blocks and back, errors to where they belong.

Ray Data calls an actor with a block of rows, and with the next before that one is done; all of
them share the actor's batches. A row that can not be made carries its error from there on, and
passes through the stages after it. What is wrong with an actor ends the actor: its blocks are
given to another.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Final, TypeVar

import pyarrow as pa
import ray
from opentelemetry import trace

from deployments.bulk.rows import Work, pack_works, unpack_works
from deployments.config import AppConfig
from deployments.service import Service
from deployments.store_access import StoreAccess
from deployments.tracing import set_up_tracing
from pipeline.errors import BarkError, EngineFailed, InvalidCheckpoint, StoreUnavailable
from pipeline.generations import audio_key
from pipeline.models.checkpoint import open_checkpoint
from pipeline.models.locate import locate
from pipeline.stages.text import TextStage
from pipeline.voice_sources import voice_library

log = logging.getLogger(__name__)
_T = TypeVar("_T")

_TELL_EVERY_S: Final = 1.0
_STORE_PAUSE_S: Final = 2.0
_STORE_PATIENCE_S: Final = 300.0
HOLDER: Final = "bulk"  # who keeps these generations from being forgotten


class RowActor(ABC):
    """What all of them do: rows out of blocks and back, errors to where they belong."""

    name: ClassVar[str]

    def __init__(self, config: AppConfig, board: Any) -> None:
        self.config, self.board = config, board
        self._actor = str(ray.get_runtime_context().get_actor_id())
        self._is_traced = set_up_tracing(self.name, self._actor)
        self._num_rows = 0

    async def __call__(self, block: pa.Table) -> pa.Table:
        """Work on a block's rows, all at the same time."""
        works = unpack_works(block)
        open_ones = [work for work in works if work.end is None]
        self._num_rows += len(open_ones)
        try:
            await self.work_on(open_ones)
        finally:
            self._num_rows -= len(open_ones)
        if self._is_traced:  # the last actor is ended without notice when all rows are done
            await asyncio.to_thread(trace.get_tracer_provider().force_flush)  # type: ignore[attr-defined]
        return pack_works(works)

    async def work_on(self, works: list[Work]) -> None:
        """Do this stage's part of each row."""
        await asyncio.gather(*(self._guarded(work) for work in works))

    async def admitted(self, works: list[Work]) -> list[Work]:
        """Return the rows that may begin here, when they may; those that kill actors may not."""
        if not works:
            return []
        ids = [work.id for work in works]
        deadly = set(await self.board.begin.remote(self.name, ids))
        for work in works:
            if work.id in deadly:
                work.fail(
                    EngineFailed("the process that worked on this row, and others, died each time")
                )
        return [work for work in works if work.end is None]

    async def _guarded(self, work: Work) -> None:
        try:
            await self.row(work)
        except StoreUnavailable:
            raise  # not this row's fault: the job stops, and goes on where it was
        except BarkError as error:
            if isinstance(error, EngineFailed) and self.has_failed:
                log.exception("an engine has failed: another process takes over")
                os._exit(1)
            work.fail(error)
        except Exception as error:  # the outer edge of a row: it must not take others along
            log.exception("row %s", work.id)
            work.fail(EngineFailed(f"{type(error).__name__}: {error}"))

    @abstractmethod
    async def row(self, work: Work) -> None:
        """Do this stage's part of one row."""

    @property
    def has_failed(self) -> bool:
        """Say whether this process is of no use any longer."""
        return False

    @property
    def busy(self) -> float:
        """Say how full it is, 0…1."""
        return float(self._num_rows > 0)

    def start_telling(self, device_class: str) -> None:
        """Let the board know of this actor, now and every second."""

        def tell() -> None:
            while True:
                facts = {
                    "device_class": device_class,
                    "rows": self._num_rows,
                    "busy": self.busy,
                    "pid": os.getpid(),
                }
                self.board.here.remote(self.name, self._actor, facts)
                time.sleep(_TELL_EVERY_S)

        threading.Thread(target=tell, name="board", daemon=True).start()


class BulkStage(RowActor):
    """One that has the model's files."""

    def __init__(self, config: AppConfig, model_digest: str, board: Any) -> None:
        super().__init__(config, board)
        model = config.model
        self.checkpoint = open_checkpoint(locate(model.name, revision=model.revision))
        if self.checkpoint.digest != model_digest:
            raise InvalidCheckpoint(
                f"{model.name} is another model here, {self.checkpoint.digest[:12]}, than where "
                f"the job was started, {model_digest[:12]}"
            )

    def open_text(self) -> TextStage:
        """Return the tokenizer."""
        vocabulary = self.config.model.tokenizer or self.checkpoint.tokenizer_path
        if vocabulary is None:
            from pipeline.models.hub_model import fetch_vocabulary

            vocabulary = fetch_vocabulary()
        return TextStage(vocabulary, self.checkpoint.spec.semantic)

    def open_service(self, stages: Any) -> Service:
        """Return what checks, identifies and keeps requests, just as behind HTTP."""
        config, store = self.config, StoreAccess(self.config)
        # how many rows are under way is the board's to say
        admission = config.admission.model_copy(update={"max_running": 1_000_000})
        return Service(
            config.model_copy(update={"admission": admission}),
            stages,
            voice_library(config.model.name, self.checkpoint, config.voices.folders, store.presets),
            model_digest=self.checkpoint.digest,
            store=store,
        )


async def insist(act: Callable[[], Awaitable[_T]]) -> _T:
    """Wait for a store that is away, for some minutes.

    Raises:
        StoreUnavailable: it stayed away.
    """
    began_s = time.monotonic()
    while True:
        try:
            return await act()
        except StoreUnavailable as error:
            if time.monotonic() - began_s > _STORE_PATIENCE_S:
                raise
            log.warning("waiting for the store: %s", error.message)
            await asyncio.sleep(_STORE_PAUSE_S)


async def find(access: StoreAccess, generation_id: str) -> dict[str, Any] | None:
    """Return the manifest of a generation that is there already, and hold it; None if it is not.

    Raises:
        StoreUnavailable: it stayed away.
    """

    def look() -> dict[str, Any] | None:
        facts = access.generations.load_manifest(generation_id)
        if facts is None:
            return None
        if access.store.size(audio_key(generation_id, facts["format"])) is None:
            return None  # without its sound; made again, it is healed
        access.generations.hold(generation_id, HOLDER)
        return access.generations.load_manifest(generation_id)  # it may have gone meanwhile

    return await insist(lambda: access.run(look))


def place_of(config: AppConfig) -> str:
    """Return the store's address, as manifests give it."""
    url = config.store.url
    return url.rstrip("/") if "://" in url else os.path.abspath(url)
