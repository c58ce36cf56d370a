"""The HTTP routes over stages of this process: no Ray, real sound, OpenAI's own client."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from contextlib import suppress

import httpx
import numpy as np
import pytest
import soundfile
from cluster import eventually
from local_app import LocalApp
from openai import NotFoundError, OpenAI, UnprocessableEntityError

from deployments import metrics
from pipeline.bark import Bark
from pipeline.voice_files import save_voice

LONG = "Good morning. How are you today? " * 4


@pytest.fixture(scope="module")
def bark(tmp_path_factory):
    """The default model, with two voices that it made itself."""
    folder = tmp_path_factory.mktemp("voices")
    with Bark.load(voice_folders=[folder]) as loaded:
        for seed, name in enumerate(("anna", "tom")):
            clip = loaded.generate("Good morning.", seed=seed, semantic={"max_duration_s": 1.5})
            save_voice(clip.tokens, folder / f"{name}.npz")
        yield loaded


@pytest.fixture(scope="module")
def serve(bark, tmp_path_factory):
    """Serve on a free port of loopback; returns a function of a config → url."""
    apps = []

    def start(**sections) -> str:
        store = {"url": str(tmp_path_factory.mktemp("data"))}
        apps.append(LocalApp(bark, {"store": store, **sections}, bark.voices))
        return apps[-1].url

    yield start
    for app in apps:
        app.close()


@pytest.fixture(scope="module")
def url(serve):
    return serve(voices={"aliases": {"alloy": "anna"}})


@pytest.fixture(scope="module")
def client(url):
    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def samples_of(data: bytes, tmp_path, suffix="wav"):
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(data)
    return soundfile.read(path)[0]


def test_official_client_gets_the_bytes_of_the_pipeline(client, bark, tmp_path):
    answer = client.audio.speech.create(
        model="tts-1",
        voice="alloy",
        input="Hello, I am a small Bark.",
        response_format="pcm",
        extra_body={"seed": 7},
    )
    clip = bark.generate("Hello, I am a small Bark.", voice="anna", seed=7)
    levels = np.frombuffer(answer.content, "<i2")
    assert np.abs(levels / 32767 - np.clip(clip.samples, -1, 1)).max() < 1e-4
    assert answer.response.headers["X-Bark-Id"] == clip.id
    assert answer.response.headers["X-Bark-Seed"] == "7"
    assert answer.response.headers["X-Bark-Finish-Reason"] == clip.finish_reason
    timing = answer.response.headers["Server-Timing"]
    assert all(f"{s};dur=" in timing for s in ("semantic", "coarse-queue", "fine", "codec"))


@pytest.mark.parametrize("kind", ["mp3", "opus", "aac", "flac", "wav", "pcm"])
def test_every_format_plays(client, tmp_path, kind):
    answer = client.audio.speech.create(
        model="nano", voice="anna", input="Hello.", response_format=kind, extra_body={"seed": 1}
    )
    assert answer.response.headers["content-type"].startswith("audio/")
    if kind in ("wav", "flac", "mp3", "opus"):
        assert np.abs(samples_of(answer.content, tmp_path, kind)).max() > 0.01
    assert len(answer.content) > 1000


def test_streaming_sends_the_first_segment_early_and_joins_to_the_same_sound(client, bark):
    with client.audio.speech.with_streaming_response.create(
        model="nano", voice="anna", input=LONG, response_format="pcm", extra_body={"seed": 3}
    ) as answer:
        chunks = [chunk for chunk in answer.iter_bytes() if chunk]
    clip = bark.generate(LONG, voice="anna", seed=3)
    assert len(clip.segments) > 1
    assert len(chunks) > 1
    assert len(b"".join(chunks)) == 2 * len(clip.samples)
    assert answer.headers["X-Bark-Id"] == clip.id


def test_events_are_openais(client, url):
    with httpx.stream(
        "POST",
        f"{url}/v1/audio/speech",
        json={"model": "nano", "input": "Hello.", "stream_format": "sse", "seed": 1},
        timeout=60,
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [line for line in answer.iter_lines() if line.startswith("data: ")]
    assert '"type": "speech.audio.delta"' in events[0]
    assert '"type": "speech.audio.done"' in events[-1]
    assert '"finish_reason": ' in events[-1]


def test_same_request_same_bytes(client):
    def once() -> str:
        answer = client.audio.speech.create(
            model="nano", voice="tom", input="Good morning.", extra_body={"seed": 5}
        )
        return hashlib.sha256(answer.content).hexdigest()

    assert once() == once()


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────
def test_official_client_raises_its_own_errors(client):
    with pytest.raises(NotFoundError) as missing:
        client.audio.speech.create(model="nano", voice="nobody", input="Hello.")
    assert missing.value.code == "voice_not_found"
    with pytest.raises(NotFoundError, match="no model"):
        client.audio.speech.create(model="gpt-9", voice="anna", input="Hello.")
    with pytest.raises(UnprocessableEntityError, match="temperature"):
        client.audio.speech.create(
            model="nano", voice="anna", input="x", extra_body={"semantic": {"temperature": -1}}
        )


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 422, "invalid_request"),
        (b'{"model": "nano"}', 422, "invalid_request"),
        (b'{"model": "nano", "input": "a", "sed": 1}', 422, "invalid_request"),
        (b'{"model": "nano", "input": "a\\u0000"}', 422, "invalid_request"),
        (b'{"model": "nano", "input": "a", "voice": "../x"}', 422, "invalid_request"),
        (b'{"model": "nano", "input": "a", "voice": "/etc/x.npz"}', 422, "invalid_request"),
        (b'{"model": "nano", "input": "' + b"a" * 30_000 + b'"}', 422, "text_too_long"),
        (b"x" * 1_500_000, 413, "body_too_large"),
    ],
    ids=["no JSON", "no input", "typo", "control", "path", "file", "long text", "long body"],
)
def test_bad_requests_are_told_why(url, body, status, code):
    answer = httpx.post(
        f"{url}/v1/audio/speech",
        content=body,
        headers={"Content-Type": "application/json", "X-Request-Id": "mine-1"},
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers["X-Request-Id"] == answer.json()["error"]["request_id"] == "mine-1"


def test_a_body_without_a_length_is_bounded_too(url):
    def pieces():
        for _ in range(30):
            yield b"x" * 65_536

    answer = httpx.post(
        f"{url}/v1/audio/speech", content=pieces(), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"


def test_unknown_routes_and_methods_have_the_same_envelope(url):
    for method, path, status in (("GET", "/nowhere", 404), ("GET", "/v1/audio/speech", 405)):
        answer = httpx.request(method, url + path)
        assert answer.status_code == status
        assert answer.json()["error"]["request_id"] == answer.headers["X-Request-Id"]


# ── lists ────────────────────────────────────────────────────────────────────────────────────────
def test_models_and_voices_are_listed(client, url, bark):
    assert {m.id for m in client.models.list()} >= {"nano", "tts-1"}
    names = [v["name"] for v in httpx.get(f"{url}/v1/audio/voices").json()["data"]]
    assert {"anna", "tom"} <= set(names)
    shown = httpx.get(f"{url}/v1/audio/voices/anna").json()
    assert len(shown["digest"]) == 64
    assert shown["seconds"] > 0


# ── where the time went ──────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("text", ["Good morning.", LONG])
def test_a_recent_request_is_drawn(url, text):
    body = {"model": "nano", "input": text, "seed": 5}
    answer = httpx.post(f"{url}/v1/audio/speech", json=body, headers={"X-Request-Id": "mine-1"})
    for name in ("mine-1", answer.headers["X-Bark-Id"]):
        page = httpx.get(f"{url}/traces/{name}")
        assert page.headers["content-type"].startswith("text/html")
        assert page.text.count('class="stage"') % 4 == 0
        assert page.text.count('class="stage"') >= 4
        assert all(f">{part}" in page.text for part in ("queue", "prefill", "decode"))
        assert "http" not in page.text  # nothing is fetched from anywhere
        assert text[:12] not in page.text  # and no text is told
    missing = httpx.get(f"{url}/traces/nothing")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "generation_not_found")


def test_a_refused_request_is_drawn_with_its_outcome(url):
    body = {"model": "nano", "input": LONG, "seed": 1, "timeout_s": 0.01}
    headers = {"X-Request-Id": "late-1"}
    assert httpx.post(f"{url}/v1/audio/speech", json=body, headers=headers).status_code == 504
    assert "deadline_exceeded" in httpx.get(f"{url}/traces/late-1").text


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────
def test_keys_and_limits(serve, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"# ours\n{hashlib.sha256(b'secret').hexdigest()} studio\n")
    url = serve(access={"keys_file": str(keys), "max_per_minute": 2})
    body = {"model": "nano", "input": "One.", "seed": 1}

    def post(**headers):
        return httpx.post(f"{url}/v1/audio/speech", json=body, headers=headers, timeout=60)

    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
        answer = post(**headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    good = {"Authorization": "Bearer secret"}
    assert [post(**good).status_code for _ in range(3)] == [200, 200, 429]
    refused = post(**good)
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert httpx.get(f"{url}/healthz").status_code == 200  # probes need no key


def test_a_full_queue_turns_away_at_once_and_finishes_what_it_took(serve):
    url = serve(admission={"max_running": 1, "max_waiting": 1})
    body = {"model": "nano", "input": "Good morning.", "seed": 1}
    answers = []

    def post():
        answers.append(httpx.post(f"{url}/v1/audio/speech", json=body, timeout=60))

    threads = [threading.Thread(target=post) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    codes = sorted(answer.status_code for answer in answers)
    assert codes.count(200) >= 2
    assert set(codes) == {200, 503}
    assert all("Retry-After" in a.headers for a in answers if a.status_code == 503)
    assert len({a.content for a in answers if a.status_code == 200}) == 1


def test_a_deadline_is_kept(serve):
    url = serve()
    body = {"model": "nano", "input": LONG, "seed": 1, "timeout_s": 0.01}
    answer = httpx.post(f"{url}/v1/audio/speech", json=body, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")


# ── the document ─────────────────────────────────────────────────────────────────────────────────
def test_no_request_gets_a_5xx_or_an_answer_that_is_not_documented(url, tmp_path):
    checks = (
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
        "negative_data_rejection",
    )
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"),
        *("--max-examples", "15", "--seed", "1", "--request-timeout", "120", "--no-color"),
        *("--checks", ",".join(checks), "--suppress-health-check", "all"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "generated" in done.stdout


def test_every_answer_is_counted_under_its_route_and_code_by_a_sink_that_fails(url, serve):
    told = []

    def broken(metric, value, labels):
        told.append((metric.name, dict(labels)))
        raise OSError("no agent")

    def of(metric, label):
        return [(labels[label], labels["code"]) for name, labels in told if name == metric.name]

    small = serve(admission={"max_body_bytes": 2000})
    body = {"model": "nano", "input": "Hello.", "response_format": "pcm"}
    speech = f"{url}/v1/audio/speech"
    metrics.send_to(broken)
    try:
        assert httpx.post(speech, json=body, timeout=60).status_code == 200
        assert httpx.post(speech, json={**body, "voice": "nobody"}).status_code == 404
        assert httpx.post(speech, json={**body, "speed": 9}).status_code == 422
        assert httpx.get(speech).status_code == 405
        assert httpx.get(f"{url}/anything/at/all").status_code == 404
        long = f"{small}/v1/audio/speech"
        assert httpx.post(long, json={**body, "input": "a" * 3000}).status_code == 413
        late = {**body, "input": LONG * 12, "timeout_s": 2.0}
        with suppress(httpx.RemoteProtocolError):  # after the first byte, unless this is busy
            assert httpx.post(speech, json=late, timeout=60).status_code == 504
        assert httpx.get(f"{url}/v1/generations/{'0' * 64}").status_code == 404
        spoken = "/v1/audio/speech"
        wanted = [
            (spoken, "ok"),
            (spoken, "voice_not_found"),
            (spoken, "invalid_request"),
            (spoken, "method_not_allowed"),
            ("none", "not_found"),
            ("none", "body_too_large"),
            (spoken, "deadline_exceeded"),
            ("/v1/generations/{id}", "generation_not_found"),
        ]
        # an answer is counted when all of it is sent, which its reader may have noticed before
        eventually(lambda: sorted(of(metrics.REQUESTS, "route")) == sorted(wanted))
    finally:
        metrics.send_to(None)
    ends = [end for way, end in of(metrics.GENERATIONS, "way") if way == "http"]
    assert ends == ["ok", "voice_not_found", "deadline_exceeded"]
