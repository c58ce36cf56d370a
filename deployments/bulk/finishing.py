"""The end of a row: the segments that the stages have made become one sound, kept in the store.

`synthesize` does it, over stages of which most were done before, in other processes. So a row is
joined, marked and described as a request is online, and its file is the same.
"""

from __future__ import annotations

import time
from typing import Any, Final

from opentelemetry.context import Context

from deployments.bulk.actor import HOLDER, BulkStage, insist, place_of
from deployments.bulk.rows import Piece, Work
from deployments.generation import Generation
from deployments.keeping import keep
from pipeline.payloads import (
    CoarseCodes,
    FineCodes,
    HistoryPrompt,
    SemanticTokens,
    StageReport,
    TextTokens,
    Waveform,
)
from pipeline.request import CoarseSettings, FineSettings, SemanticSettings
from pipeline.spec import BarkSpec
from pipeline.stages.decoding import Call
from pipeline.stages.text import TextStage
from pipeline.telemetry import joined, traced, with_plans
from pipeline.workers import Worker

_NEVER_S: Final = 10 * 365 * 86_400.0  # nobody waits for a row: it has no deadline


class GivenStages:
    """Stages whose work is done already, in other processes; fulfils `service.ServedStages`.

    `synthesize` over these joins, marks and describes a row just as it does online.
    """

    def __init__(
        self,
        spec: BarkSpec,
        text: TextStage,
        device_class: str = "",
        pieces: list[Piece] | None = None,
        codec: Worker[Any] | None = None,
    ) -> None:
        self.spec, self.device_class = spec, device_class
        self._text, self._pieces, self._codec = text, pieces or [], codec

    def count_tokens(self, text: str) -> int:
        return self._text.num_tokens(text)

    def text(self, text: str) -> TextTokens:
        return self._text(text)

    async def semantic(
        self,
        text: TextTokens,
        history: HistoryPrompt | None,
        settings: SemanticSettings,
        call: Call,
    ) -> tuple[SemanticTokens, StageReport]:
        del text, history, settings
        piece = self._pieces[call.segment]
        assert piece.semantic is not None
        return piece.semantic, piece.reports["semantic"]

    async def coarse(
        self,
        semantic: SemanticTokens,
        history: HistoryPrompt | None,
        settings: CoarseSettings,
        call: Call,
    ) -> tuple[CoarseCodes, StageReport]:
        del semantic, history, settings
        piece = self._pieces[call.segment]
        assert piece.coarse is not None
        return piece.coarse, piece.reports["coarse"]

    async def fine(
        self,
        coarse: CoarseCodes,
        history: HistoryPrompt | None,
        settings: FineSettings,
        call: Call,
    ) -> tuple[FineCodes, StageReport]:
        del coarse, history, settings
        piece = self._pieces[call.segment]
        assert piece.fine is not None
        return piece.fine, piece.reports["fine"]

    async def codec(self, fine: FineCodes, call: Call) -> tuple[Waveform, StageReport]:
        assert self._codec is not None
        return await traced("codec", None, self._codec.stage(fine, call))


class Finishing:
    """The end of a row: `synthesize` over what is there, and all of it into the store."""

    def __init__(self, stage: BulkStage, text: TextStage) -> None:
        self._text, self._spec = text, stage.checkpoint.spec
        self._service = stage.open_service(GivenStages(self._spec, text))
        self._place = place_of(stage.config)

    async def finish(self, work: Work, stages: Any) -> None:
        """Make a row's sound, keep it, and end the row.

        Raises:
            StoreUnavailable, EngineFailed.
        """
        assert work.request is not None
        kept = list[dict[str, Any]]()

        async def keep_it(done: Generation) -> None:
            access = done.service.store
            await insist(lambda: access.run(access.generations.hold, done.id, HOLDER))
            kept.append(await insist(lambda: keep(done)))

        generation = Generation(
            self._service.over(stages),
            work.request,
            work.histories,
            work.seed,
            time.monotonic() + _NEVER_S,
            time.monotonic() - (time.time() - work.began_unix_s),
            context=_planned(work),
            at_end=keep_it,
        )
        async for _ in generation.segments():
            pass
        work.succeed(kept[-1], self._place)

    def given(self, work: Work, device_class: str, codec: Worker[Any]) -> GivenStages:
        """Return the stages of a row of which only the codec is still to come."""
        return GivenStages(self._spec, self._text, device_class, work.pieces, codec)


def _planned(work: Work) -> Context:
    headers, plans = work.spans
    return with_plans(joined(headers), plans)
