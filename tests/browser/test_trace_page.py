"""The page of one request as a browser lays it out: bars in order, nothing cut or fetched."""

from __future__ import annotations

from itertools import pairwise
from urllib.parse import quote, urlsplit

import httpx
import pytest

from deployments.trace_page import HEADERS, missing_page, trace_page

STAGES = ["semantic", "coarse", "fine", "codec"]
TEXT = "Good morning. How are you today? Seven birds are in the garden. " * 2
HOSTILE = "<img src=x onerror=alert(1)>\"'><script>alert(2)</script>"
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
HALF_A_PIXEL = 0.5

# Where everything is, row by row: `box` is [left, right, top, bottom].
_LAYOUT = """() => {
  const box = e => {
    const r = e.getBoundingClientRect();
    return [r.left, r.right, r.top, r.bottom];
  };
  const texts = [...document.querySelectorAll('.row > div, .axis text, dt, dd, h1, .key li')];
  return {
    rows: [...document.querySelectorAll('details')].map(row => ({
      kind: row.className, name: row.querySelector('.name').textContent,
      cells: [...row.querySelectorAll('summary > div')].map(e => e.textContent),
      lane: box(row.querySelector('.lane')),
      bars: [...row.querySelectorAll('.lane rect')].map(bar => ({
        kind: bar.getAttribute('class'), box: box(bar), title: bar.textContent,
        paint: getComputedStyle(bar).fill,
      })),
    })),
    ticks: [...document.querySelectorAll('.axis text')].map(e => [e.textContent, box(e)]),
    keys: [...document.querySelectorAll('.key li')].map(e => e.textContent),
    texts: texts.filter(e => e.textContent && e.checkVisibility()).map(e => ({
      told: e.textContent, box: box(e), cut: e.scrollWidth > e.clientWidth + 1 && !!e.clientWidth,
    })),
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    colours: [document.body, document.querySelector('h1')].map(e => getComputedStyle(e))
      .map((style, i) => i ? style.color : style.backgroundColor),
    inserted: document.querySelectorAll('script, img, iframe, object, style ~ style').length,
  };
}"""


@pytest.fixture(scope="module")
def url(serve, tmp_path_factory):
    found = serve({"url": str(tmp_path_factory.mktemp("data"))})
    for name, text in (("long", TEXT), ("short", "Good morning.")):
        body = {"model": "nano", "input": text, "voice": "heart", "seed": 5}
        answer = httpx.post(
            f"{found}/v1/audio/speech", json=body, headers={"X-Request-Id": name}, timeout=60
        )
        assert answer.status_code == 200
    return found


@pytest.fixture
def opened(visit, url):
    def opened(path, **options):
        visited = visit(urlsplit(url).netloc, **{"viewport": WIDE, **options})
        visited.answer = visited.page.goto(f"{url}{path}")
        return visited

    return opened


def overlapping(texts):
    """Return pairs of texts that lie over each other."""
    pairs = ((a, b) for n, a in enumerate(texts) for b in texts[n + 1 :])

    def meet(a, b):
        wide = min(a[1], b[1]) - max(a[0], b[0])
        high = min(a[3], b[3]) - max(a[2], b[2])
        return wide > HALF_A_PIXEL and high > HALF_A_PIXEL

    return [(a["told"], b["told"]) for a, b in pairs if meet(a["box"], b["box"])]


def seconds(told):
    """Read a time back, as the page writes it."""
    number, unit = told.split()
    return float(number) / {"s": 1, "ms": 1000}[unit]


def check(layout, width):
    """Assert that bars nest, follow each other and are as long as told, and that all is legible."""
    total_s = seconds(layout["rows"][0]["cells"][1])
    for row in layout["rows"]:
        left, right = row["lane"][0] - HALF_A_PIXEL, row["lane"][1] + HALF_A_PIXEL
        whole, *parts = row["bars"]
        assert whole["kind"] == "whole"
        for bar in row["bars"]:
            assert bar["box"][0] < bar["box"][1]
            assert left <= bar["box"][0] <= bar["box"][1] <= right
            assert bar["title"]
        for part in parts:
            told_s = seconds(part["title"].partition("\n")[0].partition(" ")[2])
            length = (part["box"][1] - part["box"][0]) / (row["lane"][1] - row["lane"][0])
            assert length == pytest.approx(told_s / total_s, abs=0.006)
            assert whole["box"][0] - HALF_A_PIXEL <= part["box"][0]
            assert part["box"][1] <= whole["box"][1] + HALF_A_PIXEL
        for before, after in pairwise(parts):
            assert after["box"][0] == pytest.approx(before["box"][1], abs=HALF_A_PIXEL)
    assert layout["overflow"] <= 0
    assert not [text["told"] for text in layout["texts"] if text["cut"]]
    assert all(t["box"][0] >= 0 and t["box"][1] <= width for t in layout["texts"])
    assert not overlapping(layout["texts"])
    times = [float(label.split()[0]) for label, _ in layout["ticks"]]
    assert times[0] == 0
    assert times == sorted(set(times))
    assert len(times) >= 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_the_stages_of_a_request_are_drawn(opened, viewport, scheme):
    visited = opened("/traces/long", viewport=viewport, color_scheme=scheme)
    layout = visited.page.evaluate(_LAYOUT)
    check(layout, viewport["width"])
    rows = layout["rows"]
    request, *others = rows
    assert request["kind"] == "request"
    segments = [n for n, row in enumerate(others) if row["kind"] == "segment"]
    assert len(segments) >= 2
    assert len(others) == 5 * len(segments)
    for place in segments:
        segment, *stages = others[place : place + 5]
        assert [stage["name"] for stage in stages] == STAGES
        (over,) = segment["bars"]
        for stage in stages:
            whole, *parts = stage["bars"]
            assert over["box"][0] - HALF_A_PIXEL <= whole["box"][0]
            assert whole["box"][1] <= over["box"][1] + HALF_A_PIXEL
            wanted = ["queue", "prefill", "decode"]
            if stage["name"] in ("fine", "codec"):
                wanted.remove("prefill")
            assert [part["kind"] for part in parts] == wanted
            assert all(word in parts[-1]["title"] for word in ("steps", "mean batch", "device"))
        for before, after in pairwise(stages):
            assert before["bars"][0]["box"][0] < after["bars"][0]["box"][0]
        assert all(" of 8" in stage["cells"][2] for stage in stages[:2])  # batch occupancy
    # several segments shared their steps
    shares = [
        float(row["cells"][2].removeprefix("batch ").split()[0])
        for row in others
        if row["name"] in STAGES[:2]
    ]
    assert max(shares) > 1
    assert layout["keys"] == ["queue", "prefill", "decode", "first sound"]
    paints = {bar["kind"]: bar["paint"] for row in rows for bar in row["bars"]}
    assert len(set(paints.values())) == len(paints) == 4
    page, text = (sum(map(int, c[4:-1].split(", "))) for c in layout["colours"])
    assert (page > text) == (scheme == "light")
    assert {request.url for request in visited.requests if request.url[:5] != "data:"} == {
        visited.page.url
    }
    assert not visited.complaints


def test_the_browser_is_told_to_fetch_and_run_nothing(opened):
    visited = opened("/traces/short")
    policy = visited.answer.headers["content-security-policy"]
    assert policy == HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    run = "() => { const e = document.createElement('script'); e.textContent = 'window.ran = 1';"
    visited.page.evaluate(f"{run} document.body.append(e) }}")
    visited.page.evaluate("document.body.append(Object.assign(new Image(), {src: '/healthz'}))")
    visited.page.wait_for_function("true")
    assert visited.page.evaluate("window.ran") is None
    assert len(visited.complaints) == 2  # that both were refused
    assert all("Content Security Policy" in told for told in visited.complaints)


def test_a_row_is_opened_from_the_keyboard(opened):
    page = opened("/traces/short").page
    names = []
    for _ in range(5):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.querySelector('.name')?.textContent"))
    assert names == ["request", *STAGES]
    page.keyboard.press("Enter")
    opened_row = page.locator("details[open]")
    assert opened_row.count() == 1
    told = opened_row.locator(".more").inner_text()
    assert all(
        word in told for word in ("queue", "decode", "tokens", "steps", "mean batch", "device")
    )
    check(page.evaluate(_LAYOUT), WIDE["width"])
    page.keyboard.press("Enter")
    assert page.locator("details[open]").count() == 0


def test_a_request_that_ended_early_says_how(opened, url):
    body = {"model": "nano", "input": TEXT, "timeout_s": 0.001}
    httpx.post(f"{url}/v1/audio/speech", json=body, headers={"X-Request-Id": "late"})
    visited = opened("/traces/late")
    assert visited.page.locator("h1 small").inner_text() == "deadline_exceeded"
    assert "No stage had finished" in visited.page.locator("body").inner_text()
    assert not visited.complaints


@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_an_unknown_id_is_explained_to_people(opened, viewport):
    name = HOSTILE.replace("/", "|")
    visited = opened(f"/traces/{quote(name)}", viewport=viewport)
    assert visited.answer.status == 404
    assert visited.page.locator("code").first.inner_text() == name
    told = visited.page.locator("body").inner_text()
    assert "X-Request-Id" in told
    assert "Ask again" in told
    layout = visited.page.evaluate(_LAYOUT)
    assert layout["inserted"] == 0
    assert layout["overflow"] <= 0
    (complaint,) = visited.complaints
    assert "404" in complaint


def test_what_callers_name_is_shown_as_they_wrote_it(opened, url):
    """Through the service: ids that are no ids are not taken up."""
    headers = {"X-Request-Id": HOSTILE, "traceparent": f"00-{HOSTILE}-00f067aa0ba902b7-01"}
    body = {"model": "nano", "input": "Good night.", "seed": 2}
    answer = httpx.post(f"{url}/v1/audio/speech", json=body, headers=headers, timeout=60)
    visited = opened(f"/traces/{answer.headers['X-Bark-Id']}")
    assert visited.page.evaluate(_LAYOUT)["inserted"] == 0
    assert "onerror" not in visited.page.content()
    assert not visited.complaints


def test_nothing_that_a_record_may_hold_becomes_markup(visit):
    part = (HOSTILE, 0.5)
    bar = {"segment": 0, "stage": HOSTILE, "start_s": 0.1, "parts": [part], "tokens": 1, "steps": 1}
    bar |= {"mean_batch": 1.0, "device_s": 0.1}
    words = ("request_id", "generation_id", "trace_id", "outcome", "voice", "ended", "segments")
    record = {
        **dict.fromkeys(words, HOSTILE),
        "seed": 1,
        "audio_seconds": 1.0,
        "first_audio_seconds": 0.5,
        "waterfall": {"total_s": 1.0, "bars": [bar]},
    }
    for page in (trace_page(record, {HOSTILE: 8}), missing_page(HOSTILE)):
        visited = visit(viewport=PHONE)
        # without the headers, so that it is the page alone that keeps it out
        visited.page.set_content(page)
        layout = visited.page.evaluate(_LAYOUT)
        assert layout["inserted"] == 0
        assert layout["overflow"] <= 0
        assert HOSTILE in visited.page.locator("body").inner_text()
        assert not visited.complaints
