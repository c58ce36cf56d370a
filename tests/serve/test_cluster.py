"""The application on a real cluster: the same bytes by every way in, and after a crash."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from cluster import STAGES, eventually

from pipeline.bark import Bark

ROOT = Path(__file__).parents[2]
TEXT = "Hello, I am a small Bark."
LONG = "Good morning. How are you today? " * 6
ONE_EACH = {"autoscaling_config": None, "num_replicas": 1}


@pytest.fixture(scope="module", autouse=True)
def deployed(served):
    served.deploy(every=ONE_EACH, Ingress=ONE_EACH)


def sha(samples) -> str:
    return hashlib.sha256(np.ascontiguousarray(samples, np.float32).tobytes()).hexdigest()


def by_handle(served, **fields):
    return served.handle().generate.remote({"text": TEXT, "seed": 7, **fields}).result()


@pytest.fixture(scope="module")
def wanted():
    """Return the sha256 of the samples and the PCM bytes that one process makes."""
    with Bark.load() as bark:
        clip = bark.generate(TEXT, seed=7)
        return clip.id, sha(clip.samples)


def speech(served, **fields):
    body = {"model": "nano", "input": TEXT, "seed": 7, "response_format": "pcm", **fields}
    return httpx.post(f"{served.url}/v1/audio/speech", json=body, timeout=300)


def test_one_request_has_one_sound_by_every_way(served, wanted):
    alone = by_handle(served)
    assert (alone["id"], sha(alone["audio"])) == wanted
    pcm = (np.rint(np.clip(alone["audio"], -1, 1) * 32767)).astype("<i2")
    answer = speech(served)
    assert answer.headers["X-Bark-Id"] == wanted[0]
    assert np.abs(np.frombuffer(answer.content, "<i2").astype(int) - pcm.astype(int)).max() <= 1
    assert len(answer.headers.get_list("X-Request-Id")) == 1
    with ThreadPoolExecutor(17) as pool:
        others = [pool.submit(by_handle, served, text="Good evening.", seed=i) for i in range(16)]
        among = by_handle(served)
        assert len({sha(other.result()["audio"]) for other in others}) > 1
    assert (among["id"], sha(among["audio"])) == wanted


def test_a_stream_is_the_same_sound_in_segments(served):
    whole = by_handle(served, text=LONG, silence_s=0)
    stream = served.handle().options(stream=True).generate_stream
    pieces = list(stream.remote({"text": LONG, "seed": 7, "silence_s": 0}))
    assert len(pieces) > 2
    assert [piece["is_last"] for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert sha(np.concatenate([piece["audio"] for piece in pieces])) == sha(whole["audio"])
    assert pieces[-1]["id"] == whole["id"]


def test_another_job_needs_nothing_of_ours(served, tmp_path):
    """The example, in an interpreter that can not import this project."""
    import ray

    own = ("pipeline", "deployments", "training", "__editable__", "bark_serve", "_bark_serve")
    for place in {Path(p) for p in sys.path if p.endswith("site-packages")}:
        for entry in place.iterdir():
            if not entry.name.startswith(own) and entry.suffix != ".pth":
                (tmp_path / "site" / entry.name).parent.mkdir(exist_ok=True)
                (tmp_path / "site" / entry.name).symlink_to(entry)

    def python(*words):
        return subprocess.run(
            [sys.executable, "-S", *map(str, words)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    assert "No module named 'pipeline'" in python("-c", "import pipeline").stderr
    address = ray.get_runtime_context().gcs_address
    done = python(ROOT / "examples" / "handle.py", address)
    assert done.returncode == 0, done.stderr
    assert "segment 0:" in done.stdout
    assert "refused: voice_not_found: There is no voice preset 'nobody'" in done.stdout
    assert (tmp_path / "hello.wav").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("request_", "error", "code"),
    [
        ({"text": "a", "voice": "nobody"}, LookupError, "voice_not_found"),
        ({"text": "a", "sed": 1}, ValueError, "invalid_request"),
        ({"text": ""}, ValueError, "invalid_request"),
        ({"text": LONG, "timeout_s": 0.01}, TimeoutError, "deadline_exceeded"),
        ("Hello", ValueError, "invalid_request"),
    ],
    ids=["voice", "typo", "blank", "deadline", "no dict"],
)
def test_errors_cross_as_builtins(served, request_, error, code):
    with pytest.raises(error) as caught:
        served.handle().generate.remote(request_).result()
    assert str(caught.value.cause).startswith(f"{code}: ")


@pytest.mark.parametrize("stage", STAGES)
def test_a_request_outlives_the_death_of_its_only_replica(served, wanted, stage):
    """The replica is killed while it works; the answer comes late, and is the same."""
    before = set(served.pids(stage))
    with ThreadPoolExecutor(1) as pool:
        answers = [pool.submit(by_handle, served, text=LONG, timeout_s=300) for _ in range(1)]
        time.sleep(0.3)
        served.kill(stage)
        late = [answer.result(timeout=300) for answer in answers]
    assert not before & set(served.pids(stage))
    assert [sha(clip["audio"]) for clip in late] == [sha(by_handle(served, text=LONG)["audio"])]
    assert sha(by_handle(served)["audio"]) == wanted[1]


def check_that_all_work_ends(served):
    """Slots are free again; none had more than two steps for nobody, and none goes on in secret."""
    eventually(lambda: not served.is_at_work())
    steps = [fact["steps"] for fact in served.facts()]
    time.sleep(0.5)
    assert [fact["steps"] for fact in served.facts()] == steps
    assert all(fact["most_wasted_steps"] <= 2 for fact in served.facts())


def test_cancelling_a_call_frees_its_slots_and_ends_its_work(served):
    response = served.handle().generate.remote({"text": LONG * 8, "seed": 1})
    eventually(served.is_at_work)
    response.cancel()
    check_that_all_work_ends(served)


def test_a_client_that_goes_away_frees_its_slots(served):
    served.hang_up_at_work({"model": "nano", "input": LONG * 8, "seed": 1})
    check_that_all_work_ends(served)


def test_a_deadline_frees_its_slots(served):
    answer = speech(served, input=LONG * 30, timeout_s=1.0, stream_format="sse")
    assert "deadline_exceeded" in answer.text
    check_that_all_work_ends(served)
