"""What is told of one request for sound: its refusal, its segments, its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from deployments import metrics
from pipeline.synthesis import SegmentResult


@contextmanager
def refusals_counted(way: str | None) -> Iterator[None]:
    """Count what is never begun, too; None: it is only checked, and nothing is counted."""
    try:
        yield
    except BaseException as error:
        if way is not None:
            metrics.GENERATIONS.add(way=way, code=metrics.code_of(error))
        raise


def count_segment(way: str, segment: SegmentResult, waited_s: float, *, is_first: bool) -> None:
    """Count a segment that is made; waited_s: since the request came."""
    if is_first:
        metrics.FIRST_AUDIO_SECONDS.observe(waited_s, way=way)
    metrics.AUDIO_SECONDS.add(segment.sound.duration_s, way=way)
    for report in segment.reports:
        metrics.QUEUE_SECONDS.observe(max(0.0, report.queue_s), stage=report.stage)


def count_end(way: str, code: str, made: Sequence[SegmentResult], total_s: float) -> None:
    """Count a request that was begun; code: `ok`, or of its error."""
    metrics.GENERATIONS.add(way=way, code=code)
    if code == "ok":
        made_s = sum(segment.sound.duration_s for segment in made)
        metrics.GENERATION_SECONDS.observe(total_s, way=way)
        metrics.REAL_TIME_FACTOR.observe(total_s / made_s, way=way)
