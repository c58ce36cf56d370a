"""Traces of requests on a real cluster, received by rotel: whole trees, whoever runs a stage."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from cluster import Served, eventually
from otlp import Arrived, Rotel, Sink

from pipeline import Bark

ONE = {"autoscaling_config": None, "num_replicas": 1}
STAGES = ["bark.semantic", "bark.coarse", "bark.fine", "bark.codec"]
LONG = "Good morning. How are you today? " * 4
RATIO = 0.3


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    found = Sink()
    yield found
    found.close()


@pytest.fixture(scope="module")
def served(sink: Sink, tmp_path_factory) -> Iterator[Served]:
    rotel = Rotel(sink, tmp_path_factory.mktemp("rotel"))
    before = dict(os.environ)
    os.environ.update(
        OTEL_EXPORTER_OTLP_ENDPOINT=rotel.url,
        OTEL_BSP_SCHEDULE_DELAY="200",
        OTEL_TRACES_SAMPLER="parentbased_traceidratio",
        OTEL_TRACES_SAMPLER_ARG=str(RATIO),
    )
    cluster = Served()
    try:
        cluster.deploy(every=ONE, Ingress=ONE)
        yield cluster
    finally:
        cluster.close()
        rotel.close()
        os.environ.clear()
        os.environ.update(before)


def parent(is_sampled: bool = True) -> tuple[str, dict[str, str]]:
    trace_id = secrets.token_hex(16)
    flag = "01" if is_sampled else "00"
    return trace_id, {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-{flag}"}


def tree(sink: Sink, trace_id: str) -> Arrived:
    """Return the request's span of a trace, when all of it has arrived."""

    def found() -> Arrived | None:
        roots = [root for root in sink.trees() if root.trace_id == trace_id]
        requests = [s for root in roots for s in root.all() if s.name == "bark.request"]
        return requests[0] if len(roots) == 1 and requests else None

    eventually(found)
    time.sleep(1.0)  # what else is on its way
    return found()


def check(request: Arrived, num_segments: int) -> None:
    """Assert the whole tree: names, order, durations that nest, costs that add up."""
    segments = [child for child in request.children if child.name == "bark.segment"]
    assert len(segments) == num_segments
    for segment in segments:
        assert segment.names == STAGES
        for earlier, later in zip(segment.children, segment.children[1:], strict=False):
            assert later.start_ns >= earlier.end_ns - 1_000_000
        for stage in segment.children:
            wanted = ["queue", "prefill", "decode"]
            if stage.name in ("bark.fine", "bark.codec"):
                wanted.remove("prefill")
            assert stage.names == wanted
            assert stage.attributes["bark.tokens"] > 0
            assert stage.attributes["bark.device_seconds"] > 0
            assert stage.resource["service.name"] == stage.name
            assert stage.resource["cluster"] == "test"  # it did pass through rotel
            assert stage.attributes["bark.mean_batch"] >= 1
    for span in request.all():
        assert not span.is_error
        for child in span.children:
            assert span.start_ns - 1_000_000 <= child.start_ns <= child.end_ns
            assert child.end_ns <= span.end_ns + 1_000_000
    stages = [stage for segment in segments for stage in segment.children]
    total = sum(stage.attributes["bark.device_seconds"] for stage in stages)
    assert request.attributes["bark.device_seconds"] == pytest.approx(total)


def speech(served: Served, headers=None, **fields) -> httpx.Response:
    body = {"model": "nano", "input": "Good morning.", "seed": 1, "response_format": "pcm"}
    url = f"{served.url}/v1/audio/speech"
    return httpx.post(url, json={**body, **fields}, headers=headers, timeout=120)


def test_http_joins_the_callers_trace(served, sink):
    trace_id, headers = parent()
    answer = speech(served, headers, voice="heart")
    request = tree(sink, trace_id)
    check(request, 1)
    assert request.attributes["bark.id"] == answer.headers["X-Bark-Id"]
    assert request.attributes["bark.voice"] == "heart"
    assert request.attributes["bark.seed"] == 1


def test_a_long_text_is_one_tree(served, sink):
    trace_id, headers = parent()
    assert speech(served, headers, input=LONG).status_code == 200
    request = tree(sink, trace_id)
    check(request, request.attributes["bark.segments"])
    assert request.attributes["bark.segments"] > 1


def test_handles_join_by_a_field(served, sink):
    trace_id, headers = parent()
    served.handle().generate.remote({"text": "Good morning.", "seed": 2, "trace": headers}).result()
    check(tree(sink, trace_id), 1)


def test_a_kept_generation_shows_its_store(served, sink):
    trace_id, headers = parent()
    assert speech(served, headers, store=True).status_code == 200
    request = tree(sink, trace_id)
    assert request.names == ["bark.segment", "bark.store"]


def test_a_job_belongs_to_the_trace_that_asked_for_it(served, sink):
    trace_id, headers = parent()
    body = {"model": "nano", "input": "Good night.", "seed": 3}
    answer = httpx.post(f"{served.url}/v1/generations", json=body, headers=headers, timeout=60)
    assert answer.status_code == 202
    request = tree(sink, trace_id)
    assert request.names == ["bark.segment", "bark.store"]


def test_an_error_is_told(served, sink):
    trace_id, headers = parent()
    assert speech(served, headers, input=LONG, timeout_s=0.05).status_code == 504
    request = tree(sink, trace_id)
    assert request.is_error
    assert request.error == "deadline_exceeded"
    assert "exception" in request.events


def test_a_call_lost_with_its_replica_is_a_linked_span(served, sink):
    trace_id, headers = parent()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(speech, served, headers, input=LONG * 3, timeout_s=100)
        busy = served.handle("CoarseStage")
        eventually(lambda: busy.facts.remote().result()["running"])
        served.kill("CoarseStage")
        assert running.result().status_code == 200
    request = tree(sink, trace_id)
    lost = [span for span in request.all() if span.name == "bark.retry"]
    assert lost
    for span in lost:
        assert span.is_error
        assert span.attributes["bark.stage"] == "coarse"
        (again,) = [other for other in request.all() if span.span_id in other.links]
        assert again.name in ("bark.coarse", "bark.retry")


def test_what_is_sampled_is_whole_and_the_rest_is_silent(served, sink):
    trace_id, headers = parent(is_sampled=False)
    assert speech(served, headers).status_code == 200
    before = {root.trace_id for root in sink.trees()}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: speech(served, seed=n), range(100)))
    assert {answer.status_code for answer in answers} == {200}
    time.sleep(3)
    new = [root for root in sink.trees() if root.trace_id not in before]
    assert trace_id not in {root.trace_id for root in new}
    assert len({root.trace_id for root in new}) == len(new)  # no orphan beside a root
    assert 10 <= len(new) <= 55  # of 100, at 0.3: four standard deviations
    for root in new:
        (request,) = [span for span in root.all() if span.name == "bark.request"]
        check(request, 1)


def test_what_requests_are_charged_adds_up_to_what_the_engines_worked(served):
    def busy() -> dict[str, float]:
        names = ("Semantic", "Coarse", "Fine", "Codec")
        facts = {n: served.handle(f"{n}Stage").facts.remote().result() for n in names}
        return {name.lower(): found["busy_s"] for name, found in facts.items()}

    before, charged = busy(), dict.fromkeys(("semantic", "coarse", "fine", "codec"), 0.0)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: speech(served, seed=n, voice="oak"), range(24)))
    for answer in answers:
        for entry in answer.headers["Server-Timing"].split(", "):
            name, _, milliseconds = entry.partition(";dur=")
            if name in charged:
                charged[name] += float(milliseconds) / 1000
    for name, worked in busy().items():
        assert charged[name] == pytest.approx(worked - before[name], rel=0.01, abs=0.002)


def test_every_request_has_one_line_with_its_ids(served):
    trace_id, headers = parent()
    answer = speech(served, {**headers, "X-Request-Id": "logged-1"}, input="Good night.")

    def lines() -> list[dict[str, object]]:
        from ray._private.worker import _global_node

        logs = [
            path.read_text(errors="replace")
            for path in Path(_global_node.get_logs_dir_path()).glob("worker-*.err")
        ]
        mine = (line for text in logs for line in text.splitlines() if "logged-1" in line)
        return [json.loads(line) for line in mine if line.startswith("{")]

    (line,) = eventually(lines)
    assert line["generation_id"] == answer.headers["X-Bark-Id"]
    assert line["trace_id"] == trace_id
    assert (line["deployment"], line["outcome"], line["logger"]) == (
        "Ingress",
        "ok",
        "deployments.generation",
    )
    assert line["replica"]
    assert line["device_seconds"] > 0
    assert "Good night" not in json.dumps(line)


# ── receivers that fail ──────────────────────────────────────────────────────────────────────────
_SPEAK = """
import hashlib, time
from deployments.tracing import set_up_tracing
from pipeline import Bark
assert set_up_tracing("Ingress", "one")
with Bark.load() as bark:
    clips = [bark.generate("Good morning.", seed=n % 3) for n in range(30)]
print(*sorted({hashlib.sha256(clip.samples.tobytes()).hexdigest() for clip in clips}))
"""


@pytest.mark.parametrize("kind", ["gone", "refusing", "hanging"])
def test_a_receiver_that_fails_costs_spans_and_no_request(kind):
    def answer() -> int:
        if kind == "hanging":
            time.sleep(30)
        return 503

    sink = Sink(answer)
    url = "http://127.0.0.1:9" if kind == "gone" else sink.url
    quick = {  # a queue that is full at once, and a sender that gives up soon
        "OTEL_BSP_MAX_QUEUE_SIZE": "16",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8",
        "OTEL_BSP_SCHEDULE_DELAY": "20",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", _SPEAK],
        env={**os.environ, **quick, "OTEL_EXPORTER_OTLP_ENDPOINT": url},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    sink.close()
    assert done.returncode == 0, done.stderr[-2000:]
    with Bark.load() as bark:
        clips = [bark.generate("Good morning.", seed=n) for n in range(3)]
    wanted = sorted({hashlib.sha256(clip.samples.tobytes()).hexdigest() for clip in clips})
    assert done.stdout.split() == wanted
