"""Metrics of a running application, scraped by the real Prometheus: they agree with what was sent.

In order: each test goes on from what those before it sent.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import yaml
from cluster import Served, eventually
from prometheus import Prometheus, program

from deployments import metrics

ROOT = Path(__file__).parents[2]
ONE = {"autoscaling_config": None, "num_replicas": 1}
SCALED = {"autoscaling_config": {"min_replicas": 1, "max_replicas": 1}}
LONG = "Good morning. How are you today? " * 4
RULES = yaml.safe_load((ROOT / "k8s/monitoring/alerts.yaml").read_text())["spec"]
OURS = {
    name: metric
    for metric in (*metrics.OF_A_STAGE, *metrics.OF_THE_INGRESS)
    for name in metrics.exported_names(metric)
}
VOICE = "heart"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    before = dict(os.environ)
    os.environ |= {"RAY_metrics_report_interval_ms": "2000"}  # from replicas to the node's agent
    cluster = Served()
    try:
        cluster.deploy(every=ONE, Ingress=ONE, SemanticStage=SCALED | {"num_replicas": None})
        yield cluster
    finally:
        cluster.close()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def prometheus(served: Served, tmp_path_factory) -> Iterator[Prometheus]:
    targets = [httpx.URL(url).netloc.decode() for url in served.metrics_urls]
    server = Prometheus(tmp_path_factory.mktemp("prometheus"), targets, RULES)
    yield server
    server.close()


def speech(served: Served, **fields) -> httpx.Response:
    body = {"model": "nano", "input": "Good morning.", "seed": 1, "response_format": "pcm"}
    url = f"{served.url}/v1/audio/speech"
    return httpx.post(url, json={**body, **fields}, timeout=120)


def by(prometheus: Prometheus, name: str, *labels: str) -> dict[tuple[str, ...], float]:
    """Return a counter's or gauge's sums by some of its labels, without those that are 0."""
    found = prometheus.query(f"sum by ({', '.join(labels)}) ({name})")
    sums = {tuple(one["metric"][label] for label in labels): one["value"] for one in found}
    return {key: value for key, value in sums.items() if value}


def comes_to(prometheus: Prometheus, wanted: dict, name: str, *labels: str) -> None:
    """Wait until a counter's sums are these; they must not be more."""

    def is_so() -> bool:
        found = by(prometheus, name, *labels)
        assert all(found[key] <= wanted.get(key, 0) + 1e-6 for key in found), (found, wanted)
        return found == pytest.approx(wanted)

    eventually(is_so)


def tokens_of(result: dict) -> dict[tuple[str, ...], float]:
    """Return what a generation of one segment is counted as, by stage."""
    arrays = result["tokens"]
    frames = arrays["fine_prompt"].shape[1]
    semantic, coarse = len(arrays["semantic_prompt"]), arrays["coarse_prompt"].size
    return {
        ("semantic",): semantic,
        ("coarse",): coarse,
        ("fine",): frames,
        ("codec",): frames,
    }


def test_one_generation_is_counted_exactly(served, prometheus):
    result = served.handle().generate.remote({"text": "Good morning.", "seed": 9}).result()
    comes_to(prometheus, {("handle", "ok"): 1}, "ray_bark_generations_total", "way", "code")
    comes_to(prometheus, {("handle",): result["duration_s"]}, "ray_bark_audio_seconds_total", "way")
    comes_to(prometheus, tokens_of(result), "ray_bark_tokens_total", "stage")
    stages = ("semantic", "coarse", "fine", "codec")
    ends = {(stage, "finished"): 1 for stage in stages}
    comes_to(prometheus, ends, "ray_bark_sequences_total", "stage", "outcome")
    for stage in stages:
        steps = f'ray_bark_steps_total{{stage="{stage}", kind="decode"}}'
        buckets = f'ray_bark_step_seconds_bucket_total{{stage="{stage}", kind="decode", le="+Inf"}}'
        assert prometheus.value(steps) == prometheus.value(buckets) > 0
    # alone, each decode step had a batch of one; a token comes of every step and every prefill
    rows = by(prometheus, "ray_bark_batched_rows_total", "stage")
    assert rows == by(prometheus, 'ray_bark_steps_total{kind="decode"}', "stage")
    spent = by(prometheus, "ray_bark_device_seconds_total", "stage")
    told = {(stage,): result["timings"][stage] for stage in stages}
    assert spent == pytest.approx(told, rel=0.01, abs=0.002)


def test_requests_are_counted_by_route_and_code(served, prometheus):
    answers = [speech(served, seed=n, voice=VOICE) for n in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert speech(served, voice="nobody").status_code == 404
    assert speech(served, inputt="a typo").status_code == 422
    assert speech(served, input=LONG, timeout_s=0.05).status_code == 504
    broken = speech(served, input=LONG * 4, timeout_s=1.5, stream_format="sse")
    assert "deadline_exceeded" in broken.text
    # after the first byte HTTP has said 200; a machine that is slow has not got so far
    said = {200: (4, 1), 504: (3, 2)}[broken.status_code]
    assert httpx.get(f"{served.url}/private/{VOICE}").status_code == 404
    speeches = ("/v1/audio/speech",)
    wanted = {
        (*speeches, "ok"): said[0],
        (*speeches, "voice_not_found"): 1,
        (*speeches, "invalid_request"): 1,
        (*speeches, "deadline_exceeded"): said[1],
        ("none", "not_found"): 1,
    }
    routes = 'ray_bark_http_requests_total{route!~"/readyz"}'
    comes_to(prometheus, wanted, routes, "route", "code")
    ends = {("ok",): 3, ("voice_not_found",): 1, ("deadline_exceeded",): 2}
    comes_to(prometheus, ends, 'ray_bark_generations_total{way="http"}', "code")
    made_s = sum(float(answer.headers["X-Bark-Audio-Seconds"]) for answer in answers)
    for name in ("generation_seconds", "real_time_factor"):  # of what succeeded
        comes_to(prometheus, {("http",): 3}, f'ray_bark_{name}_count{{way="http"}}', "way")
    told = 'sum(ray_bark_audio_seconds_total{way="http"})'
    # and the segments of the one that broke off
    eventually(lambda: prometheus.value(told) >= made_s - 0.002)
    # the engine looks at the clock itself, and its caller gives up: one of them is first
    given_up = 'ray_bark_sequences_total{outcome=~"late|cancelled"}'
    eventually(lambda: by(prometheus, given_up, "stage"))


def test_audio_seconds_are_those_of_the_headers(served, prometheus):
    before = prometheus.value('sum(ray_bark_audio_seconds_total{way="http"})')
    answers = [speech(served, seed=n, voice="oak") for n in range(3)]
    told = sum(float(answer.headers["X-Bark-Audio-Seconds"]) for answer in answers)

    def made() -> float:
        return prometheus.value('sum(ray_bark_audio_seconds_total{way="http"})') - before

    eventually(lambda: made() == pytest.approx(told, abs=0.002))


def test_a_job_and_its_second_asking(served, prometheus):
    body = {"model": "nano", "input": "Good night.", "seed": 3}

    def submit() -> dict:
        return httpx.post(f"{served.url}/v1/generations", json=body, timeout=60).json()

    job = submit()["id"]
    eventually(lambda: submit()["status"] == "succeeded")
    assert submit()["id"] == job
    comes_to(prometheus, {("succeeded",): 1}, "ray_bark_jobs_total", "outcome")
    comes_to(prometheus, {("ok",): 1}, 'ray_bark_generations_total{way="job"}', "code")
    eventually(
        lambda: (
            by(prometheus, "ray_bark_cache_lookups_total", "cache", "result").get(("job", "hit"), 0)
            >= 2
        )
    )
    found = by(prometheus, "ray_bark_cache_lookups_total", "cache", "result")
    assert found["generation", "miss"] == 1
    assert found["voice", "hit"] >= 4
    calls = by(prometheus, "ray_bark_store_seconds_count", "operation")
    assert {("list",), ("put_if_absent",), ("replace",), ("get_versioned",)} <= set(calls)


def test_who_goes_away_is_counted_down_to_the_slot(served, prometheus):
    served.hang_up_at_work({"model": "nano", "input": LONG * 8, "seed": 1})
    eventually(
        lambda: by(prometheus, "ray_bark_generations_total", "code").get(("cancelled",)) == 1
    )
    gone = 'ray_bark_sequences_total{outcome="cancelled"}'
    eventually(lambda: sum(by(prometheus, gone, "stage").values()) > 0)
    # and nothing goes on in secret
    eventually(lambda: not by(prometheus, "ray_bark_running_sequences", "stage"))


def test_a_death_is_a_retry_and_no_total_falls_or_doubles(served, prometheus):
    busy = served.handle("CoarseStage")

    def is_killed_at_work() -> bool:
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(speech, served, input=LONG * 4, timeout_s=100)
            eventually(lambda: busy.facts.remote().result()["running"])
            served.kill("CoarseStage")
            assert running.result().status_code == 200
        time.sleep(2.5)  # longer than between two reports
        return bool(by(prometheus, "ray_bark_retries_total", "stage", "reason"))

    eventually(is_killed_at_work)  # it may just have been done
    assert set(by(prometheus, "ray_bark_retries_total", "stage", "reason")) == {
        ("coarse", "replica_died")
    }

    def settled() -> dict[tuple[str, ...], float] | None:
        counted = by(prometheus, "ray_bark_tokens_total", "stage")
        time.sleep(2.5)
        return counted if counted == by(prometheus, "ray_bark_tokens_total", "stage") else None

    before = eventually(settled)
    result = served.handle().generate.remote({"text": "Good evening.", "seed": 4}).result()
    after = {key: before[key] + count for key, count in tokens_of(result).items()}
    comes_to(prometheus, after, "ray_bark_tokens_total", "stage")
    total = 'sum(ray_bark_tokens_total{stage="coarse"})'
    assert len(prometheus.query('ray_bark_tokens_total{stage="coarse"}')) > 1  # replicas
    assert prometheus.value(f"resets(({total})[10m:1s])") == 0
    assert prometheus.value("max(resets(ray_bark_tokens_total[10m]))") == 0


def test_a_store_that_fails_is_seen_and_alerted(served, prometheus):
    aside = served.data.with_name(served.data.name + "-aside")
    served.data.rename(aside)
    served.data.write_text("a file, and no folder")

    def state(name: str) -> str:
        return {rule["name"]: rule.get("state") for rule in prometheus.rules()}[name]

    try:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda n: speech(served, seed=n, store=True), range(24)))
        assert {answer.status_code for answer in answers} == {503}
        eventually(lambda: by(prometheus, "ray_bark_store_errors_total", "operation"))
        eventually(lambda: state("BarkStoreFailing") == "pending")  # it waits for two minutes
    finally:
        served.data.unlink()
        aside.rename(served.data)
    codes = 'ray_bark_generations_total{code="store_unavailable"}'
    eventually(lambda: by(prometheus, codes, "way") == {("http",): 24})
    assert speech(served, store=True).status_code == 200
    for name in ("BarkStageStuck", "BarkSaysNothing", "BarkQueueGrowing", "BarkReplicasMissing"):
        assert state(name) in ("inactive", "pending")


# ── what was collected by now ────────────────────────────────────────────────────────────────────
def test_every_expression_of_the_dashboard_has_data(prometheus):
    dashboard = json.loads((ROOT / "k8s/monitoring/dashboard.json").read_text())
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert len(targets) > 35
    for target in targets:
        expression = target["expr"].replace("$namespace", ".*").replace("$__rate_interval", "10m")
        # of the last minute: gauges have gaps where a machine is too busy to tell them in time
        found = [one["value"] for one in prometheus.query(f"max_over_time(({expression})[1m:1s])")]
        assert any(value == value for value in found), f"{expression} has no data"  # beside NaN


def test_every_rule_is_evaluated_and_what_it_asks_for_is_there(prometheus):
    def seen(selector: str) -> list:
        return prometheus.query(f"last_over_time({selector}[1m])")

    rules = prometheus.rules()
    assert {rule["health"] for rule in rules} == {"ok"}
    assert len(rules) == sum(len(group["rules"]) for group in RULES["groups"])
    for rule in rules:
        if rule["type"] == "recording" and not rule["name"].endswith(("30m", "1h", "6h")):
            assert seen(rule["name"]), f"{rule['name']} has no data"
        for selector in re.findall(r"\b(?:ray_\w+|bark:[\w:]+)(?:\{[^}]*\})?", rule["query"]):
            assert seen(selector), f"{selector} of {rule['name']} has no data"


def test_every_metric_is_exported_with_its_labels_and_nothing_private(prometheus):
    seen = prometheus.query('last_over_time({__name__=~"ray_bark_.+"}[1m])')
    series = [one["metric"] for one in seen]
    assert {labels["__name__"] for labels in series} == set(OURS)
    of_ray = {"__name__", "instance", "job", "Component", "NodeAddress", "SessionName", "Version"}
    of_ray |= {"WorkerId", "JobId", "application", "deployment", "replica"}
    for labels in series:
        metric = OURS[labels["__name__"]]
        own = {key for key in labels if key not in of_ray and not key.startswith("otel_")}
        assert own - {"le"} == set(metric.labels) - {"le"}
        for label, known in metric.labels.items():
            assert labels[label] in known or not known
        assert not any(VOICE in labels[label] for label in metric.labels)
    assert {labels["deployment"] for labels in series} == {
        *("SemanticStage", "CoarseStage", "FineStage", "CodecStage", "Ingress")
    }


def test_the_exposition_is_as_promtool_wants_it(served):
    (url,) = served.metrics_urls
    with urllib.request.urlopen(url, timeout=20) as answer:
        text = answer.read().decode()
    done = subprocess.run(
        [program("promtool"), "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    found = {line for line in (done.stdout + done.stderr).splitlines() if "ray_bark_" in line}
    # Ray's own labels; and a histogram in the form of counters
    known = (
        "camelCase",
        'ray_bark_step_seconds_bucket_total non-histogram metrics should not have "le"',
    )
    assert not {line for line in found if not any(part in line for part in known)}
