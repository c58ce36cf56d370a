"""A page that draws one request: stages as bars, nothing fetched from anywhere, no script."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
  color: #222; background: #fff }
h1 { font-size: 1.2rem } dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem }
dt { color: #666 } dd { margin: 0; overflow-wrap: anywhere }
.row { display: grid; grid-template-columns: 9rem 1fr 20rem; gap: 1rem; align-items: center }
.axis { color: #666; font-size: 12px } .axis span { display: flex; justify-content: space-between }
.lane { position: relative; height: 1.2rem; background: #f2f2f2; margin: 2px 0 }
.lane b { position: absolute; top: 0; bottom: 0; min-width: 1px }
.queue { background: #c9c9c9 } .prefill { background: #e8a33d } .decode { background: #3b7dd8 }
.key { display: inline-block; width: .8rem; height: .8rem; margin: 0 .3rem 0 1rem }
.facts { color: #666; font-size: 12px; white-space: nowrap }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 }
  .lane { background: #2a2a2a } .queue { background: #666 } }
"""


def trace_page(record: Mapping[str, Any]) -> str:
    """Return the page of a request that `Recent` remembers."""
    found = record["waterfall"]
    total_s = found["total_s"] or 1.0
    facts = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>"
        for name, value in record.items()
        if name != "waterfall" and value not in (None, "")
    )
    many = len({bar["segment"] for bar in found["bars"]}) > 1
    rows = "".join(_row(bar, total_s, many) for bar in found["bars"])
    keys = "".join(
        f'<span class="key {name}"></span>{name}' for name in ("queue", "prefill", "decode")
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<title>request {html.escape(record["request_id"])}</title>
<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>
<h1>Where the time of one request went</h1><dl>{facts}</dl><p>{keys}</p>
<div class="row axis"><div></div><span><i>0 s</i><i>{total_s:.3f} s</i></span><div></div></div>
{rows}</body></html>
"""


def _row(bar: Mapping[str, Any], total_s: float, many: bool) -> str:
    name = f"{bar['segment']} · {bar['stage']}" if many else bar["stage"]
    at_s, drawn = bar["start_s"], []
    for part, seconds in bar["parts"]:
        left, width = 100 * at_s / total_s, 100 * seconds / total_s
        drawn.append(
            f'<b class="{part}" style="left:{left:.3f}%;width:{width:.3f}%" '
            f'title="{part} {seconds * 1000:.1f} ms"></b>'
        )
        at_s += seconds
    took_s = at_s - bar["start_s"]
    return (
        f'<div class="row"><div>{html.escape(name)}</div><div class="lane">{"".join(drawn)}</div>'
        f'<div class="facts">{took_s * 1000:.1f} ms · {bar["tokens"]} tokens · batch '
        f"{bar['mean_batch']:.1f} · device {bar['device_s'] * 1000:.1f} ms</div></div>\n"
    )
