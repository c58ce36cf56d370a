"""Where a request's time went: its stages as bars on one time axis, for a terminal or a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from pipeline.synthesis import SegmentResult

MARKS: Final[Mapping[str, str]] = {"queue": "·", "prefill": "▒", "decode": "█"}
_WIDTH: Final = 48
_NAME_WIDTH: Final = 14


@dataclass(frozen=True, slots=True)
class Bar:
    """One stage of one segment, or `watermark`. Seconds are counted from the request's beginning.

    parts: what it did, in order: (`queue`, `prefill` or `decode`, seconds). mean_batch: how many
    sequences shared its steps. device_s: its own share of the device.
    """

    segment: int
    stage: str
    start_s: float
    parts: tuple[tuple[str, float], ...]
    tokens: int
    steps: int
    mean_batch: float
    device_s: float

    @property
    def length_s(self) -> float:
        return sum(seconds for _, seconds in self.parts)


@dataclass(frozen=True, slots=True)
class Waterfall:
    """A whole request: its length, and its bars in order."""

    total_s: float
    bars: tuple[Bar, ...]

    @classmethod
    def of(
        cls,
        segments: Sequence[SegmentResult],
        total_s: float,
        began_unix_s: float | None = None,
    ) -> Waterfall:
        """Lay a request's reports out in time.

        Args:
            total_s: what its caller waited, at least until the last of them ended.
            began_unix_s: when the caller asked; None: when its first stage was. Machines whose
                clocks differ may have it after that, and then the first stage is the beginning.
        """
        reports = [report for segment in segments for report in segment.reports]
        began = min((report.began_unix_s for report in reports), default=0.0)
        if began_unix_s is not None:
            began = min(began, began_unix_s)
        bars = tuple(bar for segment in segments for bar in _bars(segment, began))
        ends = (bar.start_s + bar.length_s for bar in bars)
        return cls(max([total_s, *ends]), bars)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def _bars(segment: SegmentResult, began_unix_s: float) -> Iterator[Bar]:
    index = segment.segment.index
    for report in segment.reports:
        yield Bar(
            segment=index,
            stage=report.stage,
            start_s=report.began_unix_s - began_unix_s,
            parts=tuple((name, max(0.0, seconds)) for name, seconds in report.parts),
            tokens=report.tokens,
            steps=report.steps,
            mean_batch=report.mean_batch,
            device_s=report.device_s,
        )
    if segment.mark_s:
        start_s, parts = segment.marked_unix_s - began_unix_s, (("decode", segment.mark_s),)
        yield Bar(
            index, "watermark", start_s, parts, tokens=0, steps=0, mean_batch=1.0, device_s=0.0
        )


def text_rows(waterfall: Waterfall, width: int = _WIDTH) -> Iterator[str]:
    """Yield the lines of a waterfall for a terminal."""
    legend = "  ".join(f"{mark} {name}" for name, mark in MARKS.items())
    yield f"{'':{_NAME_WIDTH}} 0 s{waterfall.total_s:>{width - 5}.2f} s   {legend}"
    many = len({bar.segment for bar in waterfall.bars}) > 1
    for bar in waterfall.bars:
        name = f"{bar.segment} {bar.stage}" if many else bar.stage
        yield (
            f"{name:<{_NAME_WIDTH}}|{_drawn(bar, waterfall.total_s, width)}| "
            f"{bar.length_s:6.3f} s  {bar.tokens} tokens, batch {bar.mean_batch:.1f}, "
            f"device {bar.device_s:.3f} s"
        )


def _drawn(bar: Bar, total_s: float, width: int) -> str:
    cells, at_s = [" "] * width, bar.start_s
    for name, seconds in bar.parts:
        first, last = (round(s / (total_s or 1.0) * width) for s in (at_s, at_s + seconds))
        # what took any time at all is seen
        for cell in range(first, min(width, max(last, first + (seconds > 0)))):
            cells[cell] = MARKS[name]
        at_s += seconds
    return "".join(cells)
