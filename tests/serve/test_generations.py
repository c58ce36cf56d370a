"""`/v1/generations` and stored voices over HTTP, on a folder and on a real S3 server."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
import time
import uuid
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import numpy as np
import pytest
import soundfile
from cluster import eventually
from local_app import LocalApp
from standardwebhooks import Webhook

from deployments import webhooks
from pipeline.audio import read_label
from pipeline.bark import Bark
from pipeline.errors import Overloaded

BODY = {"model": "nano", "input": "Hello, I am a small Bark.", "response_format": "wav", "seed": 7}
SECRET = "whsec_" + base64.b64encode(b"a secret of the test").decode()


@pytest.fixture(scope="module")
def bark():
    with Bark.load() as loaded:
        yield loaded


@pytest.fixture(params=["folder", "s3"])
def sections(request, tmp_path):
    """Return the settings of an empty store."""
    if request.param == "folder":
        return {"store": {"url": str(tmp_path / "data")}}
    location = request.getfixturevalue("s3").location(uuid.uuid4().hex)
    return {"store": {"url": location.url, "endpoint": location.endpoint}}


@pytest.fixture
def serve(bark):
    apps, clients = [], []

    def start(sections) -> httpx.Client:
        apps.append(LocalApp(bark, {"jobs": {"poll_s": 0.2, "lease_s": 3}, **sections}))
        clients.append(httpx.Client(base_url=apps[-1].url, timeout=60))
        return clients[-1]

    yield start
    for each in (*clients, *apps):
        each.close()


@pytest.fixture
def client(serve, sections):
    return serve(sections)


def submit(client, **changes):
    headers = {"Idempotency-Key": changes.pop("key")} if "key" in changes else {}
    answer = client.post("/v1/generations", json={**BODY, **changes}, headers=headers)
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == f"/v1/generations/{answer.json()['id']}"
    return answer.json()


def ended(client, job_id):
    def look():
        card = client.get(f"/v1/generations/{job_id}").json()
        return card if card["status"] in ("succeeded", "failed", "cancelled") else None

    return eventually(look)


def code(answer):
    return answer.status_code, answer.json()["error"]["code"]


# ── jobs ─────────────────────────────────────────────────────────────────────────────────────────
def test_a_job_is_made_and_kept(client, bark):
    job = submit(client)
    assert job["status"] == "queued"
    card = ended(client, job["id"])
    clip = bark.generate(BODY["input"], seed=7)
    assert card["status"] == "succeeded"
    assert card["generation_id"] == clip.id
    assert (card["seed"], card["finish_reason"]) == (7, "stop")
    assert card["progress"]["segments"] == 1
    sound = client.get(card["audio"]["url"])
    assert sound.headers["content-type"] == "audio/wav"
    assert hashlib.sha256(sound.content).hexdigest() == card["audio"]["sha256"]
    assert len(sound.content) == card["audio"]["bytes"]
    samples, rate = soundfile.read(io.BytesIO(sound.content))
    assert rate == 24_000
    assert np.abs(samples - np.clip(clip.samples, -1, 1)).max() < 1e-4
    assert read_label(sound.content)["generation_id"] == clip.id
    by_its_own_id = client.get(f"/v1/generations/{clip.id}").json()
    assert by_its_own_id["audio"]["sha256"] == card["audio"]["sha256"]
    assert client.get(f"/v1/generations/{clip.id}/audio").content == sound.content


def test_a_link_needs_no_key(serve, s3):
    location = s3.location(uuid.uuid4().hex)
    client = serve({"store": {"url": location.url, "endpoint": location.endpoint}})
    card = ended(client, submit(client)["id"])
    answer = httpx.get(card["audio"]["link"])
    assert hashlib.sha256(answer.content).hexdigest() == card["audio"]["sha256"]
    assert answer.headers["content-type"] == "audio/wav"


@pytest.mark.parametrize("kind", ["mp3", "flac"])
def test_other_formats_and_speeds_lie_beside_it(client, kind):
    plain = ended(client, submit(client)["id"])
    fast = ended(client, submit(client, response_format=kind, speed=2.0)["id"])
    assert fast["generation_id"] == plain["generation_id"]
    sound = client.get(fast["audio"]["url"])
    seconds = len(soundfile.read(io.BytesIO(sound.content))[0]) / 24_000
    assert seconds == pytest.approx(plain["duration_s"] / 2, rel=0.1)
    assert hashlib.sha256(sound.content).hexdigest() == fast["audio"]["sha256"]


def test_the_same_request_is_the_same_job(client):
    first = submit(client)
    assert submit(client)["id"] == first["id"]
    assert submit(client, seed=8)["id"] != first["id"]
    unseeded = submit(client, seed=None)
    assert submit(client, seed=None)["id"] == unseeded["id"]
    assert isinstance(ended(client, unseeded["id"])["seed"], int)
    keyed = submit(client, key="k")
    assert keyed["id"] != first["id"]
    assert submit(client, key="k")["id"] == keyed["id"]
    refused = client.post(
        "/v1/generations", json={**BODY, "seed": 9}, headers={"Idempotency-Key": "k"}
    )
    assert code(refused) == (422, "idempotency_key_reused")
    a, b = (ended(client, job["id"]) for job in (first, keyed))
    assert a["audio"]["sha256"] == b["audio"]["sha256"]


def test_a_job_is_cancelled_and_forgotten(client):
    job = submit(client, input="Good morning. How are you today? " * 40)
    cancelled = client.delete(f"/v1/generations/{job['id']}").json()
    assert cancelled["status"] == "cancelled"
    assert code(client.get(f"/v1/generations/{job['id']}/audio")) == (409, "generation_not_ready")
    done = ended(client, submit(client)["id"])
    assert client.delete(f"/v1/generations/{done['id']}").status_code == 200
    for path in (done["id"], f"{done['id']}/audio", done["generation_id"]):
        assert code(client.get(f"/v1/generations/{path}")) == (404, "generation_not_found")
    again = submit(client)  # it can be made again
    assert again["id"] == done["id"]
    assert ended(client, again["id"])["audio"]["sha256"] == done["audio"]["sha256"]


def test_work_on_a_cancelled_job_stops(bark, tmp_path):
    app = LocalApp(bark, {"store": {"url": str(tmp_path)}, "jobs": {"poll_s": 0.2}})
    with httpx.Client(base_url=app.url, timeout=60) as client:
        job = submit(client, input="Good morning. How are you today? " * 200)
        path = f"/v1/generations/{job['id']}"
        eventually(lambda: client.get(path).json()["progress"].get("segments"))
        assert client.delete(path).json()["status"] == "cancelled"
        eventually(lambda: not app.generations.runner.num_running)
        assert client.get(path).json()["status"] == "cancelled"
        assert not list(tmp_path.glob("generations/*"))  # given up, not finished in silence
        eventually(lambda: not bark.stages.num_running)
    app.close()


def test_what_is_wrong_is_said_at_once(client):
    for changes, wanted in (
        ({"voice": "nobody"}, (404, "voice_not_found")),
        ({"model": "other"}, (404, "model_not_found")),
        ({"input": ""}, (422, "invalid_request")),
        ({"speed": 9}, (422, "invalid_request")),
        ({"stream_format": "sse"}, (422, "invalid_request")),
        ({"coarse": {"window": 500}}, (422, "invalid_request")),  # more than the model holds
        ({"webhook": "https://example.com"}, (422, "invalid_request")),  # no secret
    ):
        assert code(client.post("/v1/generations", json={**BODY, **changes})) == wanted
    for path in ("job-" + "0" * 32, "nothing", "0" * 32):
        assert code(client.get(f"/v1/generations/{path}")) == (404, "generation_not_found")
        assert code(client.get(f"/v1/generations/{path}/audio")) == (404, "generation_not_found")


def test_a_job_that_can_not_be_done_says_why(client):
    card = ended(client, submit(client, input="Hello. " * 300, timeout_s=0.05)["id"])
    assert (card["status"], card["error"]["code"]) == ("failed", "deadline_exceeded")
    assert card["audio"] is None


def test_jobs_belong_to_their_key(serve, sections, tmp_path):
    keys = tmp_path / "keys"
    names = ("one", "two")
    keys.write_text("".join(f"{hashlib.sha256(n.encode()).hexdigest()} {n}\n" for n in names))
    client = serve({**sections, "access": {"keys_file": str(keys)}})
    one, two = ({"Authorization": f"Bearer {name}"} for name in names)
    assert code(client.post("/v1/generations", json=BODY)) == (401, "invalid_api_key")
    job = client.post("/v1/generations", json=BODY, headers=one).json()
    for method in ("GET", "DELETE"):
        answer = client.request(method, f"/v1/generations/{job['id']}", headers=two)
        assert code(answer) == (404, "generation_not_found")
    other = client.post("/v1/generations", json=BODY, headers=two).json()
    assert other["id"] != job["id"]
    assert client.get(f"/v1/generations/{job['id']}", headers=one).status_code == 200


def test_more_jobs_than_may_wait_are_refused(serve, sections):
    client = serve({**sections, "jobs": {"max_running": 1, "max_waiting": 2, "poll_s": 60}})
    long = "Good morning. How are you today? " * 40
    answers = [
        client.post("/v1/generations", json={**BODY, "input": long, "seed": n}) for n in range(6)
    ]
    refused = [answer for answer in answers if answer.status_code != 202]
    assert refused
    assert all(code(answer) == (503, "overloaded") for answer in refused)
    assert all("Retry-After" in answer.headers for answer in refused)


def test_another_process_takes_over(serve, sections):
    """Two ingresses, one store: what one took in, the other can do and tell."""
    front = serve({**sections, "jobs": {"max_running": 0}})  # takes in, and works on nothing
    job = submit(front)
    time.sleep(0.5)
    assert front.get(f"/v1/generations/{job['id']}").json()["status"] == "queued"
    serve(sections)
    card = ended(front, job["id"])
    assert card["status"] == "succeeded"
    assert front.get(card["audio"]["url"]).status_code == 200


def test_a_full_stage_costs_time_and_not_a_sample(bark, tmp_path, monkeypatch):
    """A refusal in the middle of a text: what was made before it is not made twice."""
    text, refused = "Good morning. How are you today? " * 4, []
    real = bark.stages.codec

    async def codec(fine, call):
        if call.segment == 1 and not refused:
            refused.append(call)
            raise Overloaded("the codec stage is full", 0.1)
        return await real(fine, call)

    monkeypatch.setattr(bark.stages, "codec", codec)
    app = LocalApp(bark, {"store": {"url": str(tmp_path)}, "jobs": {"poll_s": 0.2}})
    with httpx.Client(base_url=app.url, timeout=60) as client:
        card = ended(client, submit(client, input=text)["id"])
        sound = client.get(card["audio"]["url"]).content
    app.close()
    assert refused
    monkeypatch.undo()
    clip = bark.generate(text, seed=7)
    assert card["generation_id"] == clip.id
    samples, _ = soundfile.read(io.BytesIO(sound))
    assert len(samples) == len(clip.samples)
    assert np.abs(samples - np.clip(clip.samples, -1, 1)).max() < 1e-4


@pytest.mark.parametrize("content", [b"{}", b"{", b'{"id": 5}'])
def test_a_record_that_can_not_be_read_stops_no_other_job(serve, tmp_path, content):
    number = "job-" + "0" * 32
    for name, data in ((f"jobs/{number}.json", content), (f"queue/000000000000001-{number}", b"")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "queue" / "readme").write_bytes(b"")
    client = serve({"store": {"url": str(tmp_path)}})
    assert ended(client, submit(client)["id"])["status"] == "succeeded"
    assert code(client.get(f"/v1/generations/{number}")) == (503, "store_unavailable")


def test_a_sound_stays_as_long_as_somebody_has_it(client):
    first = ended(client, submit(client)["id"])
    other = ended(client, submit(client, response_format="mp3")["id"])
    made = other["generation_id"]
    assert first["generation_id"] == made
    kept = client.post("/v1/audio/speech", json={**BODY, "store": True})
    assert kept.headers["X-Bark-Id"] == made
    client.delete(f"/v1/generations/{other['id']}")
    assert client.get(first["audio"]["url"]).status_code == 200
    client.delete(f"/v1/generations/{first['id']}")
    assert client.get(f"/v1/generations/{made}/audio").status_code == 200
    assert client.delete(f"/v1/generations/{made}").status_code == 200
    assert code(client.get(f"/v1/generations/{made}")) == (404, "generation_not_found")
    assert code(client.delete(f"/v1/generations/{made}")) == (404, "generation_not_found")


def test_a_sound_that_was_lost_is_made_again(serve, tmp_path):
    client = serve({"store": {"url": str(tmp_path)}})
    first = ended(client, submit(client)["id"])
    (wav,) = tmp_path.glob("generations/*/*/audio.wav")
    sound = wav.read_bytes()
    wav.unlink()
    assert code(client.get(first["audio"]["url"]))[0] == 404
    again = ended(client, submit(client)["id"])
    assert (again["status"], again["audio"]["sha256"]) == ("succeeded", first["audio"]["sha256"])
    assert wav.read_bytes() == sound
    wav.unlink()
    other = ended(client, submit(client, key="another")["id"])
    assert other["status"] == "succeeded"
    assert wav.read_bytes() == sound


# ── seeking ──────────────────────────────────────────────────────────────────────────────────────
def test_parts_of_the_sound(client):
    url = ended(client, submit(client)["id"])["audio"]["url"]
    whole = client.get(url)
    assert whole.headers["accept-ranges"] == "bytes"
    data, tag = whole.content, whole.headers["etag"]
    size = len(data)
    for header, part in (
        ("bytes=0-0", data[:1]),
        ("bytes=100-199", data[100:200]),
        ("bytes=1000-", data[1000:]),
        ("bytes=-50", data[-50:]),
        (f"bytes={size - 1}-{size + 100}", data[-1:]),
        (f"bytes=-{size + 5}", data),
    ):
        answer = client.get(url, headers={"Range": header})
        assert answer.status_code == 206, header
        assert answer.content == part
        first = size - len(part) if header != "bytes=0-0" and part == data[-len(part) :] else None
        if first is not None:
            assert answer.headers["content-range"] == f"bytes {first}-{size - 1}/{size}"
    for header in (f"bytes={size}-", "bytes=-0"):
        answer = client.get(url, headers={"Range": header})
        assert answer.status_code == 416
        assert answer.headers["content-range"] == f"bytes */{size}"
    huge = "bytes=0-" + 5000 * "9"
    for header in ("bytes=5-2", "bytes=-", "lines=0-1", "bytes=0-1,5-6", "nonsense", huge):
        assert client.get(url, headers={"Range": header}).content == data
    old = {"Range": "bytes=0-9", "If-Range": '"another"'}
    assert client.get(url, headers=old).content == data
    assert client.get(url, headers={**old, "If-Range": tag}).content == data[:10]
    assert client.get(url, headers={"If-None-Match": tag}).status_code == 304


# ── speech that is kept ──────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("text", ["Good morning.", "Good morning. How are you today? " * 4])
def test_speech_is_kept_when_asked_to(client, text):
    body = {**BODY, "input": text}
    loose = client.post("/v1/audio/speech", json=body)
    number = loose.headers["X-Bark-Id"]
    assert code(client.get(f"/v1/generations/{number}")) == (404, "generation_not_found")
    kept = client.post("/v1/audio/speech", json={**body, "store": True})
    assert kept.headers["X-Bark-Id"] == number
    card = client.get(f"/v1/generations/{number}").json()
    sound = client.get(card["audio"]["url"]).content
    a, b = (soundfile.read(io.BytesIO(data))[0] for data in (kept.content, sound))
    assert np.array_equal(a, b)


# ── voices ───────────────────────────────────────────────────────────────────────────────────────
def test_voices_are_made_listed_used_and_removed(client):
    made = client.post("/v1/audio/speech", json={**BODY, "store": True}).headers["X-Bark-Id"]
    form = {"name": "mine", "generation_id": made, "language": "en"}
    answer = client.post("/v1/audio/voices", data=form)
    assert answer.status_code == 201, answer.text
    card = answer.json()
    assert (card["source"], card["language"]) == ("generation", "en")
    listed = {v["name"]: v for v in client.get("/v1/audio/voices").json()["data"]}
    assert listed["mine"]["digest"] == card["digest"]
    assert listed["heart"]["source"] == "model"
    assert len(listed["heart"]["digest"]) == 64
    with_voice = client.post("/v1/audio/speech", json={**BODY, "voice": "mine"})
    assert with_voice.headers["X-Bark-Id"] != made
    assert client.post("/v1/audio/voices", data=form).status_code == 201  # again is no error
    assert client.delete("/v1/audio/voices/mine").status_code == 204
    assert code(client.delete("/v1/audio/voices/mine")) == (404, "voice_not_found")
    assert code(client.post("/v1/audio/speech", json={**BODY, "voice": "mine"}))[0] == 404


def test_uploads_are_checked(client, bark):
    def upload(data, name="own", **form):
        files = {"file": ("own.npz", data, "application/octet-stream")}
        return client.post("/v1/audio/voices", files=files, data={"name": name, **form})

    tokens = bark.generate("Good morning.", seed=3).tokens
    good = npz(**tokens.as_mapping())
    refused = upload(good)
    assert code(refused) == (422, "invalid_request")
    assert "whose voice it is" in refused.json()["error"]["message"]
    answer = upload(good, consent="my own voice, I agree")
    assert answer.status_code == 201
    assert answer.json()["consent"] == "my own voice, I agree"
    assert code(upload(npz(**bark.generate("No.", seed=4).tokens.as_mapping()), consent="x")) == (
        422,
        "invalid_request",  # another voice has this name
    )
    assert code(upload(good, "heart", consent="x")) == (422, "invalid_request")  # the model's
    pickled = io.BytesIO()
    np.savez(pickled, semantic_prompt=np.array([{}], object))
    for bad in (b"", b"no zip", pickled.getvalue(), npz(semantic_prompt=np.zeros(3, int))):
        assert code(upload(bad, consent="x")) == (422, "invalid_voice")
    for name in ("../x", "a/b/c", "", ".hidden"):
        assert upload(good, name, consent="x").status_code == 422
    big = upload(b"x" * 20_000_000, consent="x")
    assert code(big) == (413, "body_too_large")
    both = client.post("/v1/audio/voices", data={"name": "x"})
    assert code(both) == (422, "invalid_request")
    none = client.post("/v1/audio/voices", data={"name": "x", "generation_id": "0" * 32})
    assert code(none) == (404, "generation_not_found")


def npz(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


# ── webhooks ─────────────────────────────────────────────────────────────────────────────────────
class Receiver:
    """Hears webhooks; refuses the first few, or begins answers that never end."""

    def __init__(self, refuse: int = 0, *, drips: bool = False) -> None:
        self.heard: list[tuple[dict[str, str], bytes]] = []
        self.is_closing = False
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.heard.append((dict(self.headers), body))
                while drips and not receiver.is_closing:
                    time.sleep(0.1)
                    with suppress(OSError):
                        self.wfile.write(b"H")
                self.send_response(503 if len(receiver.heard) <= refuse else 204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://localhost:{self._server.server_port}/hook"

    def close(self) -> None:
        self.is_closing = True
        self._server.shutdown()
        self._server.server_close()


def test_the_end_is_told_signed_until_it_is_heard(serve, sections, monkeypatch):
    monkeypatch.setenv("BARK_SERVE_WEBHOOK_SECRET", SECRET)
    receiver = Receiver(refuse=2)
    hooks = {"allow_private": True, "first_pause_s": 0.2}
    client = serve({**sections, "webhooks": hooks})
    job = submit(client, webhook=receiver.url)
    eventually(lambda: len(receiver.heard) == 3)
    for headers, body in receiver.heard:
        told = Webhook(SECRET).verify(body, {k.lower(): v for k, v in headers.items()})
        assert headers["webhook-id"] == job["id"]
        assert told["type"] == "generation.succeeded"
        assert told["data"] == json.loads(body)["data"]
        assert told["data"]["id"] == job["id"]
        assert told["data"]["audio"]["sha256"] == ended(client, job["id"])["audio"]["sha256"]
    time.sleep(1)
    assert len(receiver.heard) == 3  # once it was heard, no more
    receiver.close()


def test_a_receiver_that_never_ends_its_answer_holds_nothing_up(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("BARK_SERVE_WEBHOOK_SECRET", SECRET)
    receiver = Receiver(drips=True)
    client = serve(
        {
            "store": {"url": str(tmp_path)},
            "webhooks": {"allow_private": True, "timeout_s": 1, "attempts": 1},
            "jobs": {"max_running": 1, "poll_s": 0.2},
        }
    )
    first = submit(client, webhook=receiver.url)
    eventually(lambda: receiver.heard)
    assert ended(client, submit(client, seed=9)["id"])["status"] == "succeeded"

    def hook():
        record = json.loads((tmp_path / "jobs" / f"{first['id']}.json").read_text())
        return record["hook"] if record["hook"]["is_done"] else None

    assert eventually(hook)["attempts"] == 1
    receiver.close()


@pytest.mark.parametrize(
    "address",
    [
        "http://example.com/hook",
        "https://127.0.0.1/hook",
        "https://10.0.0.1/hook",
        "https://[::1]/hook",
        "https://[::ffff:127.0.0.1]/hook",
        "https://169.254.169.254/latest/meta-data",
        "https://user:secret@example.com/",
        "ftp://example.com",
        "https://example.com:22/",
        "https://[64:ff9b::a00:1]/",
        "https://[2002:a00:1::]/",
        "https://[::7f00:1]/",
        "https://[fec0::1]/",
        "https://168.63.129.16/",
        "https://a..b/",
        "https://xn--zzzz/",
        "https://" + 64 * "a" + ".com/",
        "nonsense",
    ],
)
def test_private_addresses_are_refused(serve, tmp_path, monkeypatch, address):
    monkeypatch.setenv("BARK_SERVE_WEBHOOK_SECRET", SECRET)
    client = serve({"store": {"url": str(tmp_path)}})
    answer = client.post("/v1/generations", json={**BODY, "webhook": address})
    assert code(answer) == (422, "invalid_request")
    assert "webhook" in answer.json()["error"]["message"]


def test_a_name_that_leads_inside_is_never_called(serve, tmp_path, monkeypatch):
    """`localhost` passes as a name; where it leads is found out when it is due."""
    monkeypatch.setattr(webhooks, "_PORTS", range(65_536))
    monkeypatch.setenv("BARK_SERVE_WEBHOOK_SECRET", SECRET)
    receiver = Receiver()
    hooks = {"first_pause_s": 0.05, "attempts": 2}
    client = serve({"store": {"url": str(tmp_path)}, "webhooks": hooks})
    address = receiver.url.replace("http:", "https:")
    job = submit(client, webhook=address)

    def hook():
        record = json.loads((tmp_path / "jobs" / f"{job['id']}.json").read_text())
        return record["hook"] if record["hook"]["is_done"] else None

    told = eventually(hook)
    assert told["attempts"] == 2
    assert "not public" in told["last_error"]
    assert receiver.heard == []
    receiver.close()
