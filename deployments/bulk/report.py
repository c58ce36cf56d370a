"""The page about a bulk job's results: what there is, how long, how dear, and how it sounds.

One file, nothing fetched from anywhere, no script: sounds and pictures are in it.
"""

from __future__ import annotations

import base64
import html
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from statistics import median
from typing import Any, Final

import av
import numpy as np
from numpy.typing import NDArray

from deployments.bulk.rows import STAGES, Json
from pipeline.audio import SyntheticLabel, encode
from pipeline.audio.decode import decode
from pipeline.generations import Generations
from pipeline.store import Store

_NUM_SAMPLES: Final = 8
_NUM_ERRORS: Final = 100
_BINS: Final = 24
_WINDOW: Final = 512  # samples of a spectrogram's column, at 24 kHz 21 ms
_TALLEST: Final = 160  # rows of it: up to 7.5 kHz
_WIDEST: Final = 700
_RANGE_DB: Final = 70.0

_STYLE: Final = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
  color: #222; background: #fff }
h1 { font-size: 1.3rem } h2 { font-size: 1.05rem; margin-top: 2rem }
table { border-collapse: collapse } td, th { padding: .1rem .8rem .1rem 0; text-align: left;
  vertical-align: top } td.n { text-align: right; font-variant-numeric: tabular-nums }
figure { margin: 0 0 1.5rem } figcaption { overflow-wrap: anywhere } small { color: #666 }
img { display: block; width: 100%; height: 120px; image-rendering: pixelated; margin: .3rem 0 }
audio { width: 100% } svg text { font: 11px system-ui, sans-serif; fill: currentColor }
rect { fill: #3b7dd8 }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 } }
"""


def report_page(rows: Sequence[Json], store: Store, model: str) -> str:
    """Return the page about these rows of a manifest.

    Raises:
        StoreUnavailable: the samples' sounds can not be read.
    """
    made = [row for row in rows if row["status"] == "ok"]
    errors = [row for row in rows if row["status"] != "ok"]
    parts = [_summary(made, errors, model)]
    if made:
        parts += [
            _histogram("Durations", [row["seconds"] for row in made], "s"),
            _counts("Finish reasons", Counter(row["finish_reason"] for row in made)),
            _histogram("Real-time factor", [_factor(row) for row in made], "device s / s of sound"),
            _costs(made),
            _samples(made, store, model),
        ]
    if errors:
        parts.append(_errors(errors))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>bulk job: {len(rows)} rows</title>
<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>
<h1>{len(rows):,} rows, {len(made):,} made</h1>
{"".join(parts)}</body></html>
"""


def _factor(row: Mapping[str, Any]) -> float:
    return float(row["device_seconds"]) / max(1e-9, float(row["seconds"]))


def _summary(made: Sequence[Json], errors: Sequence[Json], model: str) -> str:
    audio_s = sum(row["seconds"] for row in made)
    device_s = sum(row["device_seconds"] for row in made)
    facts = {
        "model": model,
        "rows that are errors": f"{len(errors):,}",
        "sound": f"{audio_s:,.1f} s",
        "device": f"{device_s:,.1f} s",
        "real-time factor of the whole": f"{device_s / audio_s:.3f}" if audio_s else "-",
    }
    if made:
        facts["median duration"] = f"{median(row['seconds'] for row in made):.2f} s"
    return _table(list(facts.items()))


def _costs(made: Sequence[Json]) -> str:
    sums = {stage: sum((row["timings"].get(stage) or 0.0) for row in made) for stage in STAGES}
    whole = sum(sums.values()) or 1.0
    rows = [(stage, f"{s:,.2f} s", f"{s / whole:.0%}") for stage, s in sums.items()]
    return f"<h2>Device time by stage</h2>{_table(rows)}"


def _counts(title: str, counts: Mapping[str, int]) -> str:
    rows = [(name, f"{number:,}") for name, number in sorted(counts.items())]
    return f"<h2>{title}</h2>{_table(rows)}"


def _errors(errors: Sequence[Json]) -> str:
    rows = [(row["id"], row["error"], row["message"]) for row in errors[:_NUM_ERRORS]]
    more = len(errors) - len(rows)
    rest = f"<p>and {more:,} more</p>" if more else ""
    counts = _counts("Errors", Counter(row["error"] for row in errors))
    return f"{counts}<h2>Rows that are errors</h2>{_table(rows)}{rest}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    def cells(row: Sequence[str]) -> str:
        return "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row)

    return f"<table>{''.join(f'<tr>{cells(row)}</tr>' for row in rows)}</table>\n"


def _histogram(title: str, values: Sequence[float], unit: str) -> str:
    low, high = min(values), max(values)
    if low == high:  # NumPy would put them in the middle of one, and durations below zero beside
        low, high = 0.0, 2 * high or 1.0
    counts, edges = np.histogram(values, _BINS, (low, high))
    width, height, top = 30, 120, max(1, int(counts.max()))
    bars = "".join(
        f'<rect x="{n * width + 1}" y="{height - height * count / top:.1f}" width="{width - 2}" '
        f'height="{height * count / top:.1f}"><title>{edges[n]:.2f}…{edges[n + 1]:.2f}: {count}'
        "</title></rect>"
        for n, count in enumerate(counts.tolist())
    )
    ends = (
        f'<text x="0" y="{height + 14}">{edges[0]:.2f} {html.escape(unit)}</text>'
        f'<text x="{_BINS * width}" y="{height + 14}" text-anchor="end">{edges[-1]:.2f}</text>'
        f'<text x="{_BINS * width}" y="10" text-anchor="end">most: {top:,}</text>'
    )
    box = f'viewBox="0 0 {_BINS * width} {height + 18}" role="img" aria-label="{title}"'
    return f"<h2>{title}</h2><svg {box}>{bars}{ends}</svg>\n"


# ── clips ────────────────────────────────────────────────────────────────────────────────────────
def _chosen(made: Sequence[Json]) -> list[Json]:
    """Return the shortest, the longest, one that was cut off, and others evenly over the input."""
    ordered = sorted(made, key=lambda row: row["seconds"])
    cut = [row for row in made if row["finish_reason"] == "length"][:1]
    step = max(1, len(made) // _NUM_SAMPLES)
    wanted = [ordered[0], ordered[-1], *cut, *made[::step]]
    return list({row["id"]: row for row in wanted}.values())[:_NUM_SAMPLES]


def _samples(made: Sequence[Json], store: Store, model: str) -> str:
    kept = Generations(store)
    figures = []
    for row in _chosen(made):
        facts, sound = kept.load_manifest(row["generation_id"]), kept.audio(row["generation_id"])
        if facts is None or sound is None:
            continue  # removed since
        samples, rate, _ = decode(sound)
        label = SyntheticLabel(model, row["generation_id"], row["seed"], row["voice"])
        clip = base64.b64encode(encode(samples, rate, "mp3", label)).decode()
        picture = base64.b64encode(_png(spectrogram(samples))).decode()
        request = facts["request"]
        said = request["text"] or " / ".join(turn["text"] for turn in request["turns"])
        more = f"{row['seconds']:.2f} s, {row['finish_reason']}, {row['voice'] or 'no voice'}"
        figures.append(
            f"<figure><figcaption><b>{html.escape(row['id'])}</b> {html.escape(said[:500])} "
            f"<small>{html.escape(more)}</small></figcaption>"
            f'<img alt="spectrogram" src="data:image/png;base64,{picture}">'
            f'<audio controls preload="none" src="data:audio/mpeg;base64,{clip}"></audio>'
            "</figure>\n"
        )
    return f"<h2>Clips</h2>{''.join(figures)}"


def spectrogram(samples: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return loudness by pitch and time, uint8 [H, W]: row 0 is the highest pitch."""
    hop = max(_WINDOW // 4, -(-len(samples) // _WIDEST))
    padded = np.pad(samples, (0, _WINDOW))
    starts = range(0, max(1, len(samples)), hop)
    frames = np.stack([padded[start : start + _WINDOW] for start in starts]) * np.hanning(_WINDOW)
    power = np.abs(np.fft.rfft(frames, axis=1)).T[:_TALLEST] ** 2  # [H, W]
    decibels = 10 * np.log10(power + 1e-12)
    scaled = 1 + (decibels - max(float(decibels.max()), -60.0)) / _RANGE_DB
    return (255 * np.clip(scaled, 0, 1)).astype(np.uint8)[::-1]


def _png(grey: NDArray[np.uint8]) -> bytes:
    context: Any = av.CodecContext.create("png", "w")
    context.height, context.width = grey.shape
    context.pix_fmt, context.time_base = "gray", Fraction(1)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(grey), format="gray")
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
