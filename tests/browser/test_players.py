"""Sound in a browser's player: seeking before all is loaded, through the service and by link."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import httpx
import pytest
from cluster import eventually

TEXT = "Good morning. How are you today? Seven birds are in the garden. " * 5
BODY = {"model": "nano", "input": TEXT, "voice": "heart", "seed": 5}
SILENCE_S = 10.0  # between segments: long sound that costs little
WHOLE_TAKES_S = 20  # on the browser's network, so that it can not have everything at once
NOT_SUPPORTED = 4  # MediaError.MEDIA_ERR_SRC_NOT_SUPPORTED

# Waits for an event of the player; an error is one, too.
_PLAYER = """() => {
  const player = Object.assign(new Audio(), {preload: 'metadata', muted: true, controls: true});
  const until = name => new Promise((done, failed) => {
    player.addEventListener(name, done, {once: true});
    player.addEventListener('error', () => failed(player.error.code), {once: true});
  });
  const load = async source => {
    const met = until('loadedmetadata');
    player.src = source;
    await met;
    return player.duration;
  };
  const seek = async to => {
    const met = until('seeked');
    player.pause();
    player.currentTime = to;
    await met;
    return player.currentTime;
  };
  const ranges = of => [...Array(of.length).keys()].map(i => [of.start(i), of.end(i)]);
  Object.assign(window, {player, load, seek, ranges});
  document.body.append(player);
}"""


@pytest.fixture(scope="module")
def environment(s3_server):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment().items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        yield


@pytest.fixture(scope="module")
def store(s3_server, environment):
    location = s3_server.location("players")
    return {"url": location.url, "endpoint": location.endpoint}


@pytest.fixture(scope="module")
def url(serve, store):
    return serve(store)


@pytest.fixture(scope="module")
def cards(url):
    """The same sound as two kinds of file, each a job that has ended."""
    kinds = ("wav", "mp3")
    bodies = [{**BODY, "silence_s": SILENCE_S, "response_format": kind} for kind in kinds]
    jobs = [httpx.post(f"{url}/v1/generations", json=body).json()["id"] for body in bodies]

    def ended(job):
        card = httpx.get(f"{url}/v1/generations/{job}").json()
        return card if card["status"] == "succeeded" else None

    return dict(zip(kinds, (eventually(lambda job=job: ended(job)) for job in jobs), strict=True))


def host(address: str) -> str:
    return urlsplit(address).netloc


def player(visit, url, *hosts):
    """Return a visit to a page of the service with a player on it."""
    visited = visit(host(url), *hosts)
    visited.page.goto(f"{url}/healthz")
    visited.page.evaluate(_PLAYER)
    return visited


@pytest.mark.parametrize("way", ["url", "link"])
@pytest.mark.parametrize("kind", ["wav", "mp3"])
def test_a_listener_jumps_ahead_and_back_before_all_is_loaded(visit, url, cards, kind, way):
    card = cards[kind]
    address = httpx.URL(url).join(card["audio"][way])
    visited = player(visit, url, host(str(address)))
    page = visited.page
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    bytes_a_second = card["audio"]["bytes"] / WHOLE_TAKES_S
    speed = {"downloadThroughput": bytes_a_second, "uploadThroughput": -1, "latency": 0}
    network.send("Network.emulateNetworkConditions", {"offline": False, **speed})

    duration_s = page.evaluate("source => load(source)", str(address))
    assert duration_s == pytest.approx(card["duration_s"], abs=0.03)
    assert duration_s > 4 * SILENCE_S
    assert page.evaluate("ranges(player.seekable)") == [[0, pytest.approx(duration_s)]]
    for place_s in (duration_s - 2, duration_s / 2, duration_s - 1):
        loaded = page.evaluate("ranges(player.buffered)")
        assert sum(end - start for start, end in loaded) < duration_s / 2
        assert page.evaluate("to => seek(to)", place_s) == pytest.approx(place_s, abs=0.001)
        start_s = page.evaluate("player.play().then(() => player.currentTime)")
        page.wait_for_function("from => player.currentTime > from + 0.2", arg=start_s)
        assert page.evaluate("player.error") is None
    page.wait_for_function("player.ended")
    assert page.evaluate("player.currentTime") == pytest.approx(duration_s, abs=0.03)

    asked = [request for request in visited.requests if request.resource_type == "media"]
    assert {host(request.url) for request in asked} == {host(str(address))}
    assert len(asked) >= 3  # from the beginning, and for jumps out of what was there
    for request in asked:
        (first,) = re.findall(r"bytes=(\d+)-", request.all_headers()["range"])
        answer = request.response()
        assert answer.status == 206
        told = answer.headers["content-range"]
        assert told.startswith(f"bytes {first}-")
        assert told.endswith(f"/{card['audio']['bytes']}")
    starts = [int(request.all_headers()["range"][6:].partition("-")[0]) for request in asked]
    assert starts[0] == 0
    assert max(starts) > card["audio"]["bytes"] / 2
    # the page is a bare JSON answer, which has no picture for the browser's tab
    assert not [told for told in visited.complaints if "/favicon.ico" not in told]


def test_no_sound_of_an_unknown_id(visit, url):
    visited = player(visit, url)
    address = f"{url}/v1/generations/job-{'0' * 32}/audio"
    code = visited.page.evaluate("source => load(source).catch(code => code)", address)
    assert code == NOT_SUPPORTED
    assert visited.requests[-1].response().status == 404
    told = visited.page.evaluate("source => fetch(source).then(answer => answer.json())", address)
    assert told["error"]["code"] == "generation_not_found"


def test_a_link_ends(visit, serve, store, cards, s3_server):
    url = serve({**store, "link_expires_s": 1})
    visited = player(visit, url, host(s3_server.url))
    job = f"{url}/v1/generations/{cards['mp3']['id']}"
    link = httpx.get(job).json()["audio"]["link"]
    eventually(lambda: httpx.get(link).status_code == 403)
    code = visited.page.evaluate("source => load(source).catch(code => code)", link)
    assert code == NOT_SUPPORTED
    assert visited.requests[-1].url == link
    # and the next answer has another that is good
    again = httpx.get(job).json()["audio"]["link"]
    assert visited.page.evaluate("source => load(source)", again) > SILENCE_S
