"""Pages that draw one request: stages as bars, no script, nothing fetched from anywhere.

A row is a `details` element: a mouse that rests on a bar reads what it is, a keyboard opens the
row. Places and widths are attributes of SVG, not styles, so that the headers can allow nothing
but the one style sheet, by its digest.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

_STYLE: Final = """
:root { color-scheme: light dark; --text: #1d232b; --faint: #5d6773; --page: #fff; --card: #f5f6f8;
  --line: #dfe3e8; --whole: #c9d3df; --queue: #9aa5b1; --prefill: #e08e0b; --decode: #1f77c9;
  --good: #1a7f45; --bad: #b3261e }
@media (prefers-color-scheme: dark) { :root { --text: #e3e7ec; --faint: #98a3b0; --page: #14181d;
  --card: #1c2229; --line: #2c343d; --whole: #3a4653; --queue: #7b8794; --prefill: #f2ae49;
  --decode: #5aa9ef; --good: #5fcf8d; --bad: #ff8a80 } }
* { box-sizing: border-box }
body { font: 14px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 76rem;
  padding: 1.5rem 1rem 3rem; color: var(--text); background: var(--page) }
h1 { font-size: 1.25rem; margin: 0 0 1rem }
h1 small { font-size: .8rem; font-weight: 600; padding: .15rem .55rem; border-radius: 1rem;
  margin-left: .5rem; border: 1px solid; overflow-wrap: anywhere }
.good { color: var(--good) } .bad { color: var(--bad) }
dl { margin: 0 } dd { margin: 0; overflow-wrap: anywhere } dt { color: var(--faint) }
dt, .head { font-size: 12px }
.sums { display: flex; flex-wrap: wrap; gap: .5rem 2rem }
.sums dd { font-size: 1.15rem; font-variant-numeric: tabular-nums }
.ids { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; margin: 1rem 0;
  align-items: baseline } .ids dd, code { font-family: ui-monospace, monospace; font-size: 12.5px }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: 0 0 .8rem; padding: 0;
  list-style: none; color: var(--faint) }
.key svg { width: 12px; height: 12px; vertical-align: -1px; margin-right: .4rem }
.row { display: grid; grid-template-columns: 7.5rem minmax(0, 1fr) 4.8rem 7.6rem 5.4rem;
  gap: 0 1rem; align-items: center; padding: 3px 8px }
.head { color: var(--faint) }
.row > :nth-child(n+3) { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap }
.row i { display: none; font-style: normal; color: var(--faint) }
details { border-radius: 6px } details[open], summary:hover { background: var(--card) }
summary { list-style: none; cursor: pointer; border-radius: 6px }
summary::-webkit-details-marker { display: none }
summary:focus-visible { outline: 2px solid var(--decode); outline-offset: -2px }
.name::before { content: "▸"; color: var(--faint); display: inline-block; width: 1em }
details[open] .name::before { content: "▾" }
.stage .name { padding-left: 1em }
.request, .segment { font-weight: 600 }
.segment { border-top: 1px solid var(--line); border-radius: 0 }
.more { display: flex; flex-wrap: wrap; gap: .3rem 1.6rem; padding: .2rem 8px .6rem 1.6rem;
  font-weight: 400; font-variant-numeric: tabular-nums }
.lane { display: block; width: 100%; height: 20px; overflow: visible }
.axis { height: 16px } .axis text { font-size: 11px; fill: var(--faint) }
.grid { stroke: var(--line) } .first { stroke: var(--good); stroke-dasharray: 3 2 }
rect { fill: var(--paint) } .whole { --paint: var(--whole) } .queue { --paint: var(--queue) }
.prefill { --paint: var(--prefill) } .decode { --paint: var(--decode) }
.load { width: 36px; height: 8px; margin-right: .5rem }
.foot { color: var(--faint); max-width: 46rem }
@media (max-width: 46rem) {
  .row { grid-template-columns: minmax(0, 1fr) auto 5rem; gap: 1px .8rem }
  .row > :nth-child(2) { grid-area: 2 / 1 / auto / -1 }
  .row > :nth-child(3) { grid-area: 1 / 3 } .row > :nth-child(4) { grid-area: 1 / 2 }
  .row i { display: inline } .row > :nth-child(5), .head > :not(.axis) { display: none }
}
"""


def _policy() -> str:
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


# The browser, too, sees to it that nothing is run or fetched.
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": _policy(),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_KEY: Final = ("queue", "prefill", "decode")
_LEAST: Final = 0.25  # per cent of the axis: a pixel or two
_MOST_TICKS: Final = 6
_AT_THE_END: Final = 90.0  # per cent of the axis, from where a label ends at its tick


def trace_page(record: Mapping[str, Any], slots: Mapping[str, int]) -> str:
    """Return the page of a request that `Recent` remembers.

    slots: how many sequences a stage's batch has room for; none for stages that take turns.
    """
    outcome = str(record["outcome"])
    title = f"request {record['request_id'] or record['generation_id'] or record['trace_id']}"
    mood = "good" if outcome == "ok" else "bad"
    ids = ("request_id", "generation_id", "trace_id", "voice", "seed", "ended")
    return _page(
        title,
        f'<h1>Where the time of one request went <small class="{mood}">{_safe(outcome)}</small>'
        f"</h1>\n{_terms('sums', _sums(record))}\n"
        f"{_terms('ids', ((name.replace('_', ' '), record.get(name)) for name in ids))}\n"
        + _Chart(record["waterfall"], float(record["first_audio_seconds"]), slots).drawn(),
    )


def missing_page(name: str) -> str:
    """Return what a browser shows where no recent request has an id."""
    return _page(
        "no such request",
        f"<h1>No recent request has this id</h1>\n<p><code>{_safe(name)}</code></p>\n"
        '<p class="foot">The last few hundred requests of each replica can be drawn, until it ends.'
        " The id is the one in an answer's headers, <code>X-Request-Id</code> or "
        "<code>X-Bark-Id</code>, or the trace id of your <code>traceparent</code>. Ask again for "
        "the sound, and then for its trace.</p>\n",
    )


def _page(title: str, body: str) -> str:
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{_safe(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><style>{_STYLE}</style></head>
<body>
{body}</body></html>
"""


def _sums(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    bars, total_s = record["waterfall"]["bars"], record["waterfall"]["total_s"]
    sound_s = record["audio_seconds"]
    yield "took", _time(total_s)
    if record["first_audio_seconds"]:
        yield "first sound after", _time(record["first_audio_seconds"])
    if sound_s:
        yield "sound", _time(sound_s)
        yield "real-time factor", f"{total_s / sound_s:.3g}"
    if bars:
        yield "device", _time(sum(bar["device_s"] for bar in bars))
    yield "segments", record["segments"]


class _Placed(NamedTuple):
    """A part of a stage; left and right in per cent of the axis."""

    name: str
    seconds: float
    left: float
    right: float


class _Chart:
    """Rows on one time axis: the request, its segments where it has several, their stages."""

    def __init__(
        self, waterfall: Mapping[str, Any], first_s: float, slots: Mapping[str, int]
    ) -> None:
        self._bars, self._slots = waterfall["bars"], slots
        self._total_s = waterfall["total_s"] or 1.0
        self._first_s = first_s
        self._ticks = list(_ticks(self._total_s))

    def drawn(self) -> str:
        if not self._bars:
            return '<p class="foot">No stage had finished when it ended.</p>\n'
        return (
            f'{self._legend()}\n<div class="row head"><div></div>{self._axis()}<div>took</div>'
            f"<div>batch</div><div>device</div></div>\n{''.join(self._rows())}"
        )

    def _rows(self) -> Iterator[str]:
        began_s = min(bar["start_s"] for bar in self._bars)
        waited = self._place(0.0, [("queue", began_s)])
        drawn = _bar("whole", 0.0, 100.0, "the request") + self._parts(waited, "")
        facts = [("before its first stage", _time(began_s)), ("took", _time(self._total_s))]
        yield self._row("request", "request", drawn, self._total_s, facts)
        found = [(n, list(bars)) for n, bars in groupby(self._bars, lambda bar: bar["segment"])]
        for number, bars in found:
            if len(found) > 1:
                yield self._segment(f"segment {number}", bars)
            yield from map(self._stage, bars)

    def _segment(self, name: str, bars: Sequence[Mapping[str, Any]]) -> str:
        start_s = min(bar["start_s"] for bar in bars)
        took_s = max(bar["start_s"] + _length(bar) for bar in bars) - start_s
        places = [self._place(bar["start_s"], bar["parts"]) for bar in bars]
        left = min(place[0].left for place in places if place)
        right = max(place[-1].right for place in places if place)
        facts = [("began at", _time(start_s)), ("took", _time(took_s))]
        drawn = _bar("whole", left, right - left, f"{name}: {_time(took_s)}")
        return self._row("segment", name, drawn, took_s, facts)

    def _stage(self, bar: Mapping[str, Any]) -> str:
        room = self._slots.get(bar["stage"])
        batch = f"{bar['mean_batch']:.1f} of {room}" if room else f"{bar['mean_batch']:.1f}"
        facts = [
            ("began at", _time(bar["start_s"])),
            *((name, _time(seconds)) for name, seconds in bar["parts"]),
            ("tokens", f"{bar['tokens']:,}"),
            ("steps", f"{bar['steps']:,}"),
            ("mean batch", batch),
            ("device", _time(bar["device_s"])),
        ]
        told = " · ".join(f"{name} {value}" for name, value in facts)
        placed = self._place(bar["start_s"], bar["parts"])
        drawn = ""
        if placed:
            left, right = placed[0].left, placed[-1].right
            drawn = _bar("whole", left, right - left, f"{bar['stage']}: {told}")
            drawn += self._parts(placed, f"\n{told}")
        load = "" if room is None else _load(bar["mean_batch"] / room)
        return self._row(
            "stage", bar["stage"], drawn, _length(bar), facts, load + batch, bar["device_s"]
        )

    def _place(self, start_s: float, parts: Iterable[tuple[str, float]]) -> list[_Placed]:
        """Lay parts side by side; what took any time at all is wide enough to be seen."""
        lengths = [(name, seconds) for name, seconds in parts if seconds > 0]
        widths = [max(_LEAST, 100 * seconds / self._total_s) for _, seconds in lengths]
        left = max(0.0, min(100 * start_s / self._total_s, 100 - sum(widths)))
        placed = []
        for (name, seconds), width in zip(lengths, widths, strict=True):
            placed.append(_Placed(name, seconds, left, left + width))
            left += width
        return placed

    def _parts(self, placed: Iterable[_Placed], told: str) -> str:
        return "".join(
            _bar(p.name, p.left, p.right - p.left, f"{p.name} {_time(p.seconds)}{told}")
            for p in placed
        )

    def _row(
        self,
        kind: str,
        name: str,
        drawn: str,
        took_s: float,
        facts: Iterable[tuple[str, str]],
        batch: str = "",
        device_s: float | None = None,
    ) -> str:
        device = "" if device_s is None else _time(device_s)
        return (
            f'<details class="{kind}"><summary class="row"><div class="name">{_safe(name)}</div>'
            f'<svg class="lane" aria-hidden="true">{self._lines()}<g>{drawn}</g>'
            f"{self._mark()}</svg><div>{_time(took_s)}</div>"
            f"<div>{batch and '<i>batch </i>'}{batch}</div><div>{device}</div></summary>"
            f"{_terms('more', facts)}</details>\n"
        )

    def _axis(self) -> str:
        """Write the time at every tick; the last label ends at its tick, so that it is not cut."""
        is_short = self._total_s < 1
        unit, labels = " ms" if is_short else " s", []
        for tick_s in self._ticks:
            at = 100 * tick_s / self._total_s
            anchor = "start" if tick_s == 0 else "end" if at > _AT_THE_END else "middle"
            labels.append(
                f'<text x="{self._percent(tick_s)}" y="12" text-anchor="{anchor}">'
                f"{tick_s * (1000 if is_short else 1):g}{unit if tick_s else ''}</text>"
            )
        return f'<svg class="lane axis" role="img" aria-label="time">{"".join(labels)}</svg>'

    def _lines(self) -> str:
        return "".join(
            f'<line class="grid" x1="{x}" x2="{x}" y1="-3" y2="23"/>'
            for x in map(self._percent, self._ticks)
        )

    def _mark(self) -> str:
        if not self._first_s:
            return ""
        x = self._percent(min(self._first_s, self._total_s))
        return (
            f'<line class="first" x1="{x}" x2="{x}" y1="-3" y2="23">'
            f"<title>first sound after {_time(self._first_s)}</title></line>"
        )

    def _legend(self) -> str:
        keys = [
            f'<li><svg aria-hidden="true"><rect class="{name}" x="1" y="1" width="10" height="10"/>'
            f"</svg>{name}</li>"
            for name in _KEY
        ]
        if self._first_s:
            keys.append(
                '<li><svg aria-hidden="true"><line class="first" x1="6" x2="6" y1="0" y2="12"/>'
                "</svg>first sound</li>"
            )
        return f'<ul class="key">{"".join(keys)}</ul>'

    def _percent(self, seconds: float) -> str:
        return f"{100 * seconds / self._total_s:.3f}%"


def _bar(kind: str, left: float, width: float, told: str) -> str:
    """Draw a bar; its place in per cent of the axis."""
    return (
        f'<rect class="{_safe(kind)}" x="{left:.3f}%" width="{width:.3f}%" '
        f'y="2" height="16"><title>{_safe(told)}</title></rect>'
    )


def _load(part: float) -> str:
    """Draw how full a batch was."""
    width = f"{100 * min(1.0, part):.1f}%"
    return (
        '<svg class="load" aria-hidden="true"><rect class="whole" width="100%" height="8"/>'
        f'<rect class="decode" width="{width}" height="8"/></svg>'
    )


def _ticks(total_s: float) -> Iterator[float]:
    """Yield round times from zero on, at most `_MOST_TICKS` steps of 1, 2 or 5 times a power."""
    least = total_s / _MOST_TICKS
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * f for f in (1, 2, 5, 10) if power * f >= least * (1 - 1e-9))
    for number in range(int(total_s / step + 1e-9) + 1):
        yield number * step


def _length(bar: Mapping[str, Any]) -> float:
    return float(sum(seconds for _, seconds in bar["parts"]))


def _time(seconds: float) -> str:
    """Return a time to three digits, in the unit that people would say it in."""
    if seconds < 0.0005:
        return f"{seconds * 1000:.2f} ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 999.5 else f"{seconds:,.0f} s"


def _terms(name: str, pairs: Iterable[tuple[str, Any]]) -> str:
    told = "".join(
        f"<div><dt>{_safe(term)}</dt><dd>{_safe(str(value))}</dd></div>"
        if name != "ids"
        else f"<dt>{_safe(term)}</dt><dd>{_safe(str(value))}</dd>"
        for term, value in pairs
        if value not in (None, "")
    )
    return f'<dl class="{name}">{told}</dl>'


def _safe(text: str) -> str:
    return html.escape(text)
