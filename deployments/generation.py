"""Generation: one request under way, from admission to its last segment; what is known of it.

Made by `Service.start`; knows no Ray.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from opentelemetry.context import Context
from opentelemetry.trace import Span

from deployments import metrics
from deployments.admission import Admission
from deployments.config import AppConfig
from deployments.provenance import Provenance
from deployments.recent import Recent
from deployments.request_meter import count_end, count_segment
from deployments.store_access import StoreAccess
from pipeline import telemetry
from pipeline.clip import Clip
from pipeline.identity import generation_id
from pipeline.manifest import manifest
from pipeline.payloads import HistoryPrompt
from pipeline.request import SynthesisRequest
from pipeline.synthesis import Progress, SegmentResult, Stages, synthesize
from pipeline.telemetry import STORE, request_span, spanned
from pipeline.voice_files import voice_digest
from pipeline.waterfall import Waterfall

log = logging.getLogger(__name__)

AtEnd = Callable[["Generation"], Awaitable[object]]


class ServedStages(Stages, Protocol):
    """Stages that know what they run on: part of a result's identity."""

    @property
    def device_class(self) -> str: ...


class Shared(Protocol):
    """What all requests of a service have in common: the service itself."""

    config: AppConfig
    stages: ServedStages
    model_digest: str
    recent: Recent
    store: StoreAccess
    provenance: Provenance
    admission: Admission
    low_admission: Admission


@dataclass(slots=True, eq=False)
class Generation:
    """One request under way. Iterate over `segments` once, to the end; then ask for `clip`.

    id, num_segments: known from the first segment on; only then is it certain which model speaks.
    context: of the caller's trace. at_end: done when all segments are there, as a part of it.
    is_low: all others go first.
    """

    service: Shared
    request: SynthesisRequest
    histories: dict[str, HistoryPrompt]
    seed: int
    deadline_s: float
    began_s: float
    progress: Progress | None = None
    is_streamed: bool = False
    context: Context | None = None
    at_end: AtEnd | None = None
    request_id: str = ""
    owner: str | None = None
    way: str = ""
    is_low: bool = False
    num_segments: int = 0
    done: list[SegmentResult] = field(default_factory=list)
    first_audio_s: float = 0.0
    total_s: float = 0.0

    @property
    def voice_digests(self) -> dict[str, str]:
        return {name: voice_digest(prompt) for name, prompt in self.histories.items()}

    @property
    def model_digest(self) -> str:
        """Of the model that speaks; before the first segment, of the one that is expected to."""
        told = self.done[0].model_digest if self.done else None
        return told or self.service.model_digest

    @property
    def id(self) -> str:
        """The identity of the result; before the first segment, what it will most likely be."""
        return generation_id(
            self.request,
            self.seed,
            model_digest=self.model_digest,
            voice_digests=self.voice_digests,
            precision=self.service.config.model.precision,
            device_class=self.service.stages.device_class,
            watermark=self.service.provenance.identity,
        )

    async def segments(self) -> AsyncGenerator[SegmentResult]:
        """Yield segments in order, each as soon as it and all before it are made.

        Raises:
            Overloaded, DeadlineExceeded, InvalidRequest, EngineFailed.
        """
        assert not self.done, "a generation is made once"
        with (
            request_span(self.context, **self._attributes()) as (span, context),
            self._remembered(span),
        ):
            async with self._admitted():
                running = self._synthesize(context)
                try:
                    async for segment in running:
                        self._take(segment)
                        yield segment
                finally:
                    await running.aclose()  # cancels what is still in flight
            if self.at_end is not None:
                with spanned(STORE, context):
                    await self.at_end(self)
            span.set_attributes(self._found())

    @asynccontextmanager
    async def _admitted(self) -> AsyncGenerator[None]:
        service, asked_s = self.service, time.monotonic()
        admission = service.low_admission if self.is_low else service.admission
        async with admission.admit(self.deadline_s):
            metrics.QUEUE_SECONDS.observe(time.monotonic() - asked_s, stage="front")
            yield

    def _take(self, segment: SegmentResult) -> None:
        """Keep a segment that is made, and count it."""
        self.done.append(segment)
        self.total_s = time.monotonic() - self.began_s
        self.first_audio_s = self.first_audio_s or self.total_s
        count_segment(self.way, segment, self.total_s, is_first=len(self.done) == 1)

    @contextmanager
    def _remembered(self, span: Span) -> Iterator[None]:
        """Keep where the time went, however it ends."""
        outcome = "ok"
        try:
            yield
        except BaseException as error:
            outcome = metrics.code_of(error)
            raise
        finally:
            count_end(self.way, outcome, self.done, self.total_s)
            known = span.get_span_context()
            trace_id = f"{known.trace_id:032x}" if known.is_valid else ""
            made_id = self.id if self.done else ""
            waited_s = time.monotonic() - self.began_s
            record = {
                "request_id": self.request_id,
                "generation_id": made_id,
                "trace_id": trace_id,
                "outcome": outcome,
                "ended": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "voice": self.request.voice,
                "seed": self.seed,
                "segments": f"{len(self.done)} of {self.num_segments}",
                "audio_seconds": round(sum(s.sound.duration_s for s in self.done), 3),
                "first_audio_seconds": round(self.first_audio_s, 3),
                "waterfall": Waterfall.of(self.done, waited_s, time.time() - waited_s).as_dict(),
            }
            self.service.recent.add(record, trace_id, made_id, self.request_id)
            self._log(record, waited_s)

    def _log(self, record: Mapping[str, Any], waited_s: float) -> None:
        """Write the one line that every request has."""
        told = {key: value for key, value in record.items() if key != "waterfall"}
        told |= {"key": self.owner, "seconds": round(waited_s, 3)}
        told["device_seconds"] = round(
            sum(report.device_s for segment in self.done for report in segment.reports), 4
        )
        if self.service.config.logs.include_text:
            told["text"] = " ".join(turn.text for turn in self.request.all_turns)
        log.info("request", extra=told)

    def _synthesize(self, context: Context) -> AsyncGenerator[SegmentResult]:
        turns = self.request.all_turns
        return synthesize(
            self.request,
            [None if t.voice is None else self.histories[t.voice] for t in turns],
            self.seed,
            self.service.stages,
            deadline_s=self.deadline_s,
            progress=self._told,
            first_alone=self.is_streamed,
            context=context,
            finish=self.service.provenance.finish,
            is_low=self.is_low,
        )

    def _attributes(self) -> dict[str, Any]:
        characters = sum(len(turn.text) for turn in self.request.all_turns)
        known = {telemetry.SEED: self.seed, telemetry.CHARACTERS: characters}
        return known | ({} if self.request.voice is None else {telemetry.VOICE: self.request.voice})

    def _found(self) -> dict[str, Any]:
        reports = [report for segment in self.done for report in segment.reports]
        return {
            telemetry.ID: self.id,
            telemetry.SEGMENTS: len(self.done),
            telemetry.AUDIO_S: sum(segment.sound.duration_s for segment in self.done),
            telemetry.DEVICE_S: sum(report.device_s for report in reports),
        }

    def _told(self, stage: str, segment: int, done: int, total: int) -> None:
        if stage == "text":
            self.num_segments = total
        if self.progress is not None:
            self.progress(stage, segment, done, total)

    def manifest(self, clip: Clip) -> dict[str, Any]:
        """Return what is needed to make the clip again, and what it cost."""
        model = self.service.config.model
        return manifest(
            clip,
            model=model.name,
            model_digest=self.model_digest,
            precision=model.precision,
            device_class=self.service.stages.device_class,
            watermark=self.service.provenance.watermark,
        )

    async def clip(self) -> Clip:
        """Run what is left, and return the whole."""
        if not self.done:
            async for _ in self.segments():
                pass
        return await asyncio.to_thread(
            Clip.of,
            self.id,
            self.request,
            self.voice_digests,
            self.seed,
            self.done,
            self.service.stages.spec.sample_rate,
            total_s=self.total_s,
            first_audio_s=self.first_audio_s,
        )
