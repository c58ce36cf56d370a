"""Clip: one generation's sound, its tokens, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.audio import join
from pipeline.payloads import Float32, HistoryPrompt, StageReport
from pipeline.request import SynthesisRequest
from pipeline.synthesis import SegmentResult


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """The result of `Bark.generate`.

    samples: float32 [N], mono, nominally [-1, 1], not clipped.
    tokens: all segments' tokens end to end; a valid voice preset for almost every clip.
    finish_reason: `length` where any segment did not end by itself, else `stop`.
    timings: seconds by name: `total` (wall clock), `semantic`, `coarse`, `fine`, `codec` (each
    this request's own share of the device), `queue`, `first_audio` (wall clock).
    num_dropped: word pieces that did not fit; unknown_words: words the vocabulary can not spell.
    """

    id: str
    request: SynthesisRequest
    voice_digests: Mapping[str, str]
    samples: Float32
    sample_rate: int
    seed: int
    tokens: HistoryPrompt
    finish_reason: str
    timings: dict[str, float]
    segments: tuple[SegmentResult, ...]

    def __repr__(self) -> str:
        return f"Clip(id={self.id!r}, seed={self.seed}, duration_s={self.duration_s:.2f})"

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.sample_rate

    @property
    def real_time_factor(self) -> float:
        """Seconds of work a second of sound; below 1 is faster than real time."""
        return self.timings["total"] / self.duration_s

    @property
    def num_dropped(self) -> int:
        return sum(result.num_dropped for result in self.segments)

    @property
    def unknown_words(self) -> tuple[str, ...]:
        words = (word for result in self.segments for word in result.unknown_words)
        return tuple(dict.fromkeys(words))

    @property
    def reports(self) -> tuple[StageReport, ...]:
        return tuple(report for result in self.segments for report in result.reports)

    @classmethod
    def of(
        cls,
        generation_id: str,
        request: SynthesisRequest,
        voice_digests: Mapping[str, str],
        seed: int,
        segments: Sequence[SegmentResult],
        sample_rate: int,
        *,
        total_s: float,
        first_audio_s: float,
    ) -> Clip:
        """Join segments, with the request's silence between two of them."""
        tokens = HistoryPrompt(
            np.concatenate([s.tokens.semantic for s in segments]),
            np.concatenate([s.tokens.coarse for s in segments], axis=1),
            np.concatenate([s.tokens.fine for s in segments], axis=1),
        )
        timings = {"total": total_s, "first_audio": first_audio_s, "queue": 0.0}
        for report in (report for segment in segments for report in segment.reports):
            timings[report.stage] = timings.get(report.stage, 0.0) + report.device_s
            timings["queue"] += report.queue_s
        reasons = {segment.finish_reason for segment in segments}
        return cls(
            id=generation_id,
            request=request,
            voice_digests=voice_digests,
            samples=join([s.sound.samples for s in segments], request.silence_s, sample_rate),
            sample_rate=sample_rate,
            seed=seed,
            tokens=tokens,
            finish_reason="length" if "length" in reasons else "stop",
            timings=timings,
            segments=tuple(segments),
        )
