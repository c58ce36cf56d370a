"""The actors of a bulk job: one class a stage, around the same engines as the service's."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from typing import Any, ClassVar

import pyarrow as pa

from deployments.bulk.actor import BulkStage, find, insist, place_of
from deployments.bulk.finishing import Finishing, GivenStages
from deployments.bulk.rows import Piece, Work, seed_of
from deployments.config import AppConfig
from deployments.wire import headers_of
from pipeline.engine.runner import Device
from pipeline.errors import InvalidRequest
from pipeline.local import LocalStages
from pipeline.payloads import CoarseCodes, SemanticTokens, TextTokens
from pipeline.segments import longest_segment_s, plan_segments
from pipeline.stages.decoding import Call
from pipeline.telemetry import REQUEST, SEGMENT, carrier, joined, plan_span, traced
from pipeline.workers import (
    Placement,
    Worker,
    open_coarse,
    open_codec,
    open_fine,
    open_semantic,
)


class TextOp(BulkStage):
    """Rows ▸ segments of word pieces: checked, identified, and looked for in the store."""

    name = "text"

    def __init__(self, config: AppConfig, model_digest: str, board: Any) -> None:
        super().__init__(config, model_digest, board)
        self._service = self.open_service(GivenStages(self.checkpoint.spec, self.open_text()))
        self._place = place_of(config)

    async def work_on(self, works: list[Work]) -> None:
        self._service.stages.device_class = await self.board.device_class.remote()  # type: ignore[misc]
        await super().work_on(works)

    async def row(self, work: Work) -> None:
        if work.fields is None:
            raise InvalidRequest(work.problem)
        fields = dict(work.fields)
        headers = headers_of(fields)
        fields.pop("trace", None)
        if fields.get("seed") is None:
            fields["seed"] = seed_of(work.id)
        work.began_unix_s = time.time()
        found = await insist(lambda: self._service.start(fields, headers=headers))
        work.request, work.seed, work.histories = found.request, found.seed, found.histories
        stages = self._service.stages
        segments = await asyncio.to_thread(
            plan_segments,
            found.request.all_turns,
            count_tokens=stages.count_tokens,
            max_tokens=stages.spec.semantic.prompt_length,
            max_seconds=longest_segment_s(stages.spec.semantic),
            language=found.request.language,
        )
        if (facts := await find(self._service.store, found.id)) is not None:
            work.succeed(facts, self._place)
            return
        context = joined(headers)
        request, inside = plan_span(REQUEST, context)
        plans = {(REQUEST, 0): request}
        for segment in segments:
            plans[SEGMENT, segment.index], within = plan_span(SEGMENT, inside)
            text = stages.text(segment.text)
            work.pieces.append(Piece(text, segment.voice, carrier(within)))
        work.spans = (headers, plans)


class NetworkStage(BulkStage):
    """One network: a stage's worker, and its part of every segment."""

    slots: ClassVar[str | None] = None

    def __init__(self, config: AppConfig, model_digest: str, board: Any) -> None:
        super().__init__(config, model_digest, board)
        model = config.model
        self._num_slots = 8 if self.slots is None else int(getattr(config.engine, self.slots))
        place = Placement(Device(model.device, model.backend), model.precision, self._num_slots)
        self.worker = self.open(place)
        self.start_telling(place.device_class)

    @abstractmethod
    def open(self, place: Placement) -> Worker[Any]:
        """Load the network."""

    async def work_on(self, works: list[Work]) -> None:
        await super().work_on(await self.admitted(works))

    async def row(self, work: Work) -> None:
        assert work.request is not None
        if not work.is_chained:
            await asyncio.gather(*(self._piece(work, n) for n in range(len(work.pieces))))

    async def _piece(self, work: Work, number: int) -> None:
        piece = work.pieces[number]
        if piece.is_silent:
            return
        assert work.request is not None
        history = None if piece.voice is None else work.histories[piece.voice]
        settings = getattr(work.request, self.name)
        given = self.given(piece)
        result, report = await traced(
            self.name,
            piece.trace,
            self.worker.stage(given, history, settings, Call(work.seed, number)),
        )
        setattr(piece, self.name, result)
        piece.reports[self.name] = report

    def given(self, piece: Piece) -> Any:
        """Return what the stage before this one has made."""
        return piece.fine  # of the codec

    @property
    def has_failed(self) -> bool:
        return self.worker.engine.thread.failure is not None

    @property
    def busy(self) -> float:
        running = self.worker.engine.num_running
        return min(1.0, running / self._num_slots) if self.slots else float(running > 0)


class SemanticOp(NetworkStage):
    """The first transformer, and the door: the board lets rows in."""

    name, slots = "semantic", "semantic_slots"

    def open(self, place: Placement) -> Worker[Any]:
        return open_semantic(self.checkpoint, place)

    def given(self, piece: Piece) -> TextTokens:
        return piece.text


class CoarseOp(NetworkStage):
    """The second transformer."""

    name, slots = "coarse", "coarse_slots"

    def open(self, place: Placement) -> Worker[Any]:
        return open_coarse(self.checkpoint, place)

    def given(self, piece: Piece) -> SemanticTokens | None:
        return piece.semantic


class FineOp(NetworkStage):
    """The third transformer."""

    name = "fine"

    def open(self, place: Placement) -> Worker[Any]:
        return open_fine(self.checkpoint, place)

    def given(self, piece: Piece) -> CoarseCodes | None:
        return piece.coarse


class CodecOp(NetworkStage):
    """The codec's decoder, and what comes after it: the file, the store, the row's end."""

    name = "codec"

    def open(self, place: Placement) -> Worker[Any]:
        return open_codec(self.checkpoint, place)

    def __init__(self, config: AppConfig, model_digest: str, board: Any) -> None:
        super().__init__(config, model_digest, board)
        self._finishing = Finishing(self, self.open_text())

    async def __call__(self, block: pa.Table) -> pa.Table:
        result = await super().__call__(block)
        await self.board.leave.remote(result.column("id").to_pylist())
        return result

    async def row(self, work: Work) -> None:
        device_class = await self.board.device_class.remote()
        stages = self._finishing.given(work, device_class, self.worker)
        await self._finishing.finish(work, stages)


class ChainedOp(BulkStage):
    """All networks in one process, for rows whose segments wait for each other.

    Such a row would have to go round the other stages once a segment.
    """

    name = "chained"

    def __init__(self, config: AppConfig, model_digest: str, board: Any) -> None:
        super().__init__(config, model_digest, board)
        model = config.model
        self._stages = LocalStages(
            self.checkpoint,
            device=Device(model.device, model.backend),
            precision=model.precision,
            num_slots=config.engine.semantic_slots,
            num_coarse_slots=config.engine.coarse_slots,
            tokenizer=model.tokenizer,
        )
        self._finishing = Finishing(self, self.open_text())
        self.start_telling(self._stages.device_class)

    async def work_on(self, works: list[Work]) -> None:
        chained = [work for work in works if work.is_chained]
        if chained:
            self._stages.device_class = await self.board.device_class.remote()
            await super().work_on(await self.admitted(chained))
            await self.board.leave.remote([work.id for work in chained])

    async def row(self, work: Work) -> None:
        await self._finishing.finish(work, self._stages)

    @property
    def has_failed(self) -> bool:
        return self._stages.has_failed
