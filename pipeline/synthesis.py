"""The order of the stages, written once: text ▸ semantic ▸ coarse ▸ fine ▸ codec.

`Stages` is what carries them out: `local.py` in this process, over the network elsewhere. Long
texts arrive as segments; `parallel` runs all of them at once and hands them out in order,
`chained` lets each continue from the one before.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from opentelemetry.context import Context

from pipeline.errors import InvalidVoice, ModelChanged
from pipeline.payloads import (
    CoarseCodes,
    FineCodes,
    HistoryPrompt,
    SemanticTokens,
    StageReport,
    TextTokens,
    Waveform,
)
from pipeline.request import CoarseSettings, FineSettings, SemanticSettings, SynthesisRequest
from pipeline.segments import Segment, longest_segment_s, plan_segments
from pipeline.spec import BarkSpec
from pipeline.stages.decoding import Call
from pipeline.telemetry import AUDIO_S, FINISH, SEGMENT, WATERMARK, spanned

log = logging.getLogger(__name__)

# stage, segment, done, total in the stage's own units; may come from any thread. First of all
# "text" reports how many segments there are.
Progress = Callable[[str, int, int, int], None]
# What is done to each segment's sound at its end: it is marked; on a thread, several at once.
Finish = Callable[[Waveform], Waveform]


class Stages(Protocol):
    """Every stage of one model. Each call may be one of many at the same time."""

    spec: BarkSpec

    def count_tokens(self, text: str) -> int: ...
    def text(self, text: str) -> TextTokens: ...
    async def semantic(
        self,
        text: TextTokens,
        history: HistoryPrompt | None,
        settings: SemanticSettings,
        call: Call,
    ) -> tuple[SemanticTokens, StageReport]: ...
    async def coarse(
        self,
        semantic: SemanticTokens,
        history: HistoryPrompt | None,
        settings: CoarseSettings,
        call: Call,
    ) -> tuple[CoarseCodes, StageReport]: ...
    async def fine(
        self,
        coarse: CoarseCodes,
        history: HistoryPrompt | None,
        settings: FineSettings,
        call: Call,
    ) -> tuple[FineCodes, StageReport]: ...
    async def codec(self, fine: FineCodes, call: Call) -> tuple[Waveform, StageReport]: ...


@dataclass(frozen=True, slots=True, eq=False)
class SegmentResult:
    """One segment's sound and how it came about.

    tokens: its three arrays, fit to be the next one's history prompt.
    finish_reason: `stop`, or `length` where the model did not end by itself.
    num_dropped: word pieces that did not fit the prompt.
    model_digest: which model spoke, where the stages may have had to choose; None: the only one.
    marked_unix_s, mark_s: when its sound was marked, and how long that took; 0 where it was not.
    """

    segment: Segment
    sound: Waveform
    tokens: HistoryPrompt
    finish_reason: str
    num_dropped: int
    unknown_words: tuple[str, ...]
    reports: tuple[StageReport, ...]
    model_digest: str | None = None
    marked_unix_s: float = 0.0
    mark_s: float = 0.0


async def synthesize(
    request: SynthesisRequest,
    histories: Sequence[HistoryPrompt | None],
    seed: int,
    stages: Stages,
    *,
    deadline_s: float | None = None,
    progress: Progress | None = None,
    first_alone: bool = False,
    context: Context | None = None,
    finish: Finish | None = None,
    is_low: bool = False,
) -> AsyncGenerator[SegmentResult]:
    """Turn a request into sound, segment by segment, in order.

    Args:
        histories: the voice of each turn, resolved and checked.
        seed: the request's own, or the one chosen for it.
        deadline_s: on the clock of `time.monotonic`.
        first_alone: begin with the others when the first is done, for listeners who wait for it:
            a batch of all is faster for the whole, and slower for each.
        context: of the trace that the segments are a part of; None: the one they find.
        is_low: others go first, in every stage.
        finish: changes each segment's sound, not its length; on a thread of its own.

    Raises:
        InvalidRequest: text that can not be spoken, or settings that the model has no room for.
        And whatever the stages raise; segments still in flight are cancelled first.
    """
    request.coarse.for_model(stages.spec.coarse)
    if progress is not None:
        progress = _harmless(progress)
    # tokenizing and sentence segmentation are plain computation: not on the event loop
    segments = await asyncio.to_thread(
        plan_segments,
        request.all_turns,
        count_tokens=stages.count_tokens,
        max_tokens=stages.spec.semantic.prompt_length,
        max_seconds=longest_segment_s(stages.spec.semantic),
        language=request.language,
    )
    texts = [stages.text(segment.text) for segment in segments]
    if progress is not None:
        progress("text", 0, len(segments), len(segments))

    def run(index: int, history: HistoryPrompt | None) -> asyncio.Task[SegmentResult]:
        return asyncio.create_task(
            _segment_in_trace(
                context,
                segments[index],
                texts[index],
                history,
                request,
                stages,
                Call(seed, index, deadline_s, is_low=is_low),
                progress,
                finish,
            )
        )

    if request.long_form == "chained":
        past: HistoryPrompt | None = None
        for index, segment in enumerate(segments):
            if index == 0 or segment.turn != segments[index - 1].turn:
                past = histories[segment.turn]
            task = run(index, past)
            try:
                result = await task
            finally:
                task.cancel()
            past = _usable(result.tokens, stages.spec) or past
            yield result
        return
    tasks: list[asyncio.Task[SegmentResult]] = []
    try:
        for index, segment in enumerate(segments):
            tasks.append(run(index, histories[segment.turn]))
            if first_alone and index == 0:
                yield await tasks[0]
        for task in tasks[1:] if first_alone else tasks:
            yield await task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _segment_in_trace(
    context: Context | None, segment: Segment, *arguments: Any
) -> SegmentResult:
    with spanned(SEGMENT, context, segment.index) as span:
        span.set_attribute("bark.segment", segment.index)
        result = await _segment(segment, *arguments)
        span.set_attributes({FINISH: result.finish_reason, AUDIO_S: result.sound.duration_s})
        return result


async def _segment(
    segment: Segment,
    text: TextTokens,
    history: HistoryPrompt | None,
    request: SynthesisRequest,
    stages: Stages,
    call: Call,
    progress: Progress | None,
    finish: Finish | None,
) -> SegmentResult:
    """Run one segment through the four stages."""

    def at(stage: str) -> Call:
        if progress is None:
            return call
        return replace(
            call, on_progress=lambda done, total: progress(stage, call.segment, done, total)
        )

    while True:
        semantic, spent = await stages.semantic(text, history, request.semantic, at("semantic"))
        reports = [spent]
        if not len(semantic.ids):
            # the model ended before its first token: nothing to say, which is silence, no error
            coarse, fine, sound = _nothing(stages.spec)
            break
        try:
            coarse, spent = await stages.coarse(semantic, history, request.coarse, at("coarse"))
            reports.append(spent)
            fine, spent = await stages.fine(coarse, history, request.fine, at("fine"))
            reports.append(spent)
            sound, spent = await stages.codec(fine, at("codec"))
            reports.append(spent)
            break
        except ModelChanged as error:
            # a new model is being rolled out: no segment is made of two
            log.warning("segment %d starts over: %s", segment.index, error)
    marked_unix_s = mark_s = 0.0
    if finish is not None:
        with spanned(WATERMARK):
            marked_unix_s, began_s = time.time(), time.monotonic()
            sound = await asyncio.to_thread(finish, sound)
            mark_s = time.monotonic() - began_s
    return SegmentResult(
        segment=segment,
        sound=sound,
        tokens=HistoryPrompt(semantic.ids, coarse.codes, fine.codes),
        finish_reason=semantic.finish_reason,
        num_dropped=text.num_dropped,
        unknown_words=text.unknown_words,
        reports=tuple(reports),
        model_digest=semantic.model_digest,
        marked_unix_s=marked_unix_s,
        mark_s=mark_s,
    )


def _harmless(progress: Progress) -> Progress:
    """Log what a callback raises: it runs on the engine's thread, which serves others too."""

    def report(stage: str, segment: int, done: int, total: int) -> None:
        try:
            progress(stage, segment, done, total)
        except Exception:
            log.exception("a progress callback failed")

    return report


def _nothing(spec: BarkSpec) -> tuple[CoarseCodes, FineCodes, Waveform]:
    return (
        CoarseCodes(np.empty((spec.coarse.num_codebooks, 0), np.int32)),
        FineCodes(np.empty((spec.fine.num_codebooks, 0), np.int32)),
        Waveform(np.zeros(spec.codec.hop, np.float32), spec.sample_rate),
    )


def _usable(tokens: HistoryPrompt, spec: BarkSpec) -> HistoryPrompt | None:
    """Return tokens that the next segment can continue from; a very short run can not be."""
    try:
        return tokens.checked(spec)
    except InvalidVoice:
        return None
