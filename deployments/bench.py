"""What serving costs over the bare engine: the benchmark's own clips, over HTTP on a cluster here.

A child of `bark-serve bench --serve`. The bare engine is in this process, and the two take turns
with the same requests: a machine that others share does not hold its speed from one minute to the
next, and a difference of a few hundredths would drown in that.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from ray import serve

from deployments.config import APP_NAME, INGRESS, STAGES
from deployments.request_alone import PAIRS, SPEECH, alone, by_turns, post, speech_body
from deployments.serve_file import check_serve_config, load_serve_file
from deployments.up import Cluster
from pipeline.bark import Bark
from pipeline.bench.child import note
from pipeline.bench.ours import check_clip, request
from pipeline.bench.workload import Work, text
from pipeline.errors import EngineFailed

Json = dict[str, Any]
_FILE = Path(__file__).parent.parent / "serve_config.yaml"
_BESIDE_REQUESTS = 25  # of which the median is taken
_FIRST_REQUESTS = 9
_REFUSALS = 20
_MINUTE_SENTENCES = 24  # of 2.5 s
_FULL_AFTER_S = 0.5
_GIVEN_UP_AFTER_S = 0.3  # what a client left is out of all stages by then
_LOW_AT_ONCE = 16
_FILLED_AFTER_S = 5.0


def overhead(
    *,
    path: str,
    precision: str,
    device: str,
    backend: str,
    slots: int,
    work: Json,
    warm_up: Json,
    levels: list[int],
    repeats: int,
) -> Json:
    """Measure N different requests at once over HTTP, for each N; and what else serving costs.

    Returns:
        `levels`: N → total_s, audio_s_per_s, engine_total_s, of_engine; medians of `repeats`,
        and `runs_total_s`, [over HTTP, in one process] of each.
        `idle_s`: what a client waits for a request as long as `warm_up`, alone; the median.
        `idle_added_s`: how much more that is than in one process, the median of pairs, and
        `idle_added_interval_s`, that median's 95 % confidence interval: wide where the machine
        does not hold its speed; of `idle_pairs`. `idle_between_s`: what of it passes outside of
        the stages, on the way from process to process; steady where the machine's speed is not.
        `beside_bulk_s`: as `idle_s`, while requests of low priority, as long as `work`, fill
        every slot.
        `first_audio_s`: of a streamed text of a minute; `first_sentence_s`: of its first sentence
        as a request of its own; both alone, and medians. `first_audio_added_s`: how much longer
        the former takes, the median of pairs.
        `refused_s`: the slowest answer to requests beyond the queue, with all slots at work.

    Raises:
        EngineFailed: an answer or a clip is not the one asked for.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    model = {"name": path, "precision": precision, "device": device, "backend": backend}
    engine = {"semantic_slots": slots, "coarse_slots": slots}
    admission = {"max_running": max(levels), "max_waiting": 0}
    args = {"model": model, "engine": engine, "admission": admission}
    port = free_port()
    schema, _ = check_serve_config(local_config(port, args))
    cluster = Cluster(None, num_cpus=max(8, os.cpu_count() or 1), num_gpus=None)
    try:
        cluster.deploy(schema)
        url = f"http://127.0.0.1:{port}"
        for waiting in cluster.until_ready(url, threading.Event()):
            del waiting
        note("serving, warming up")
        with (
            Bark.load(
                path, device=device, precision=precision, backend=backend, slots=slots
            ) as bark,
            httpx.Client(base_url=url, timeout=3600) as client,
        ):
            return _measure(bark, client, Work(**work), Work(**warm_up), levels, repeats)
    finally:
        cluster.close()


def _measure(
    bark: Bark, client: httpx.Client, work: Work, warm_up: Work, levels: list[int], repeats: int
) -> Json:
    def over_http(asked: Work, numbers: range) -> float:
        began = time.perf_counter()
        list(pool.map(lambda number: post(client, number, asked), numbers))
        return time.perf_counter() - began

    def in_process(asked: Work, numbers: range) -> float:
        began = time.perf_counter()
        clips = bark.generate_many([request(number, asked) for number in numbers])
        took_s = time.perf_counter() - began
        for clip in clips:
            check_clip(clip, asked)
        return took_s

    found: Json = {}
    with ThreadPoolExecutor(max(levels)) as pool:
        for warm in (over_http, in_process):
            warm(warm_up, range(max(levels)))
        for level in levels:
            these = range(100, 100 + level)
            both = [
                by_turns(turn, partial(over_http, work, these), partial(in_process, work, these))
                for turn in range(repeats)
            ]
            http_s, engine_s = (median(side) for side in zip(*both, strict=True))
            rate = level * work.seconds / http_s
            found[str(level)] = {
                "total_s": http_s,
                "audio_s_per_s": rate,
                "engine_total_s": engine_s,
                "of_engine": median(engine / http for http, engine in both),
                "runs_total_s": both,
            }
            note(f"{level} at once over HTTP: {rate:.2f} s of sound a second")
        apart = alone(bark, client, warm_up, PAIRS * repeats)
        beside = _beside_bulk(client, work, warm_up)
    return {
        "levels": found,
        **apart,
        "beside_bulk_s": median(beside),
        **_first_audio(client, warm_up),
        "refused_s": _refused_s(client, max(levels), work),
    }


def _beside_bulk(client: httpx.Client, work: Work, warm_up: Work) -> list[float]:
    """Wait for short requests while those of low priority fill the service."""
    ingress: Any = serve.get_deployment_handle(INGRESS, APP_NAME)
    stop = threading.Event()

    def fill(number: int) -> None:
        while not stop.is_set():
            fields = {"text": text(number), "seed": number, "semantic": work.semantic_fields}
            response = ingress.generate.remote({**fields, "priority": "low"})
            while not stop.is_set():
                with suppress(TimeoutError):
                    response.result(timeout_s=0.2)
                    break
            response.cancel()

    with ThreadPoolExecutor(_LOW_AT_ONCE) as pool:
        low = [pool.submit(fill, number) for number in range(200, 200 + _LOW_AT_ONCE)]
        try:
            time.sleep(_FILLED_AFTER_S)
            waited = []
            for number in range(_BESIDE_REQUESTS):
                began = time.perf_counter()
                post(client, number, warm_up)
                waited.append(time.perf_counter() - began)
                time.sleep(_FULL_AFTER_S)
        finally:
            stop.set()
        for each in low:
            each.result()
    return waited


def _first_audio(client: httpx.Client, work: Work) -> Json:
    """Compare a minute's text with its first sentence by turns, each segment as long as `work`."""
    sentences = [text(number) for number in range(_MINUTE_SENTENCES)]
    waited: dict[str, list[float]] = {"first_audio_s": [], "first_sentence_s": []}
    for number in range(_FIRST_REQUESTS):
        for name, said in zip(waited, (" ".join(sentences), sentences[0]), strict=True):
            began = time.perf_counter()
            body = speech_body(number, said, work)
            with client.stream("POST", SPEECH, json=body) as answer:
                if answer.status_code != 200:
                    raise EngineFailed(f"HTTP {answer.status_code}")
                next(answer.iter_raw())
                waited[name].append(time.perf_counter() - began)
            time.sleep(_GIVEN_UP_AFTER_S)
    added = median(a - b for a, b in zip(*waited.values(), strict=True))
    return {name: median(times) for name, times in waited.items()} | {"first_audio_added_s": added}


def _refused_s(client: httpx.Client, room: int, work: Work) -> float:
    """Fill the service, ask for more, and return the longest wait for a refusal."""

    def refused(number: int) -> float:
        began = time.perf_counter()
        answer = client.post(SPEECH, json=speech_body(number, text(number), work))
        if answer.status_code != 503 or "Retry-After" not in answer.headers:
            raise EngineFailed(f"HTTP {answer.status_code} where the service is full")
        return time.perf_counter() - began

    with ThreadPoolExecutor(room) as pool:
        bodies = [speech_body(number, text(number), work) for number in range(room)]
        taken = [pool.submit(client.post, SPEECH, json=body) for body in bodies]
        time.sleep(_FULL_AFTER_S)
        slowest = max(refused(number) for number in range(_REFUSALS))
        if any(answer.result().status_code != 200 for answer in taken):
            raise EngineFailed("what was admitted was not finished")
    return slowest


def local_config(port: int, args: Json) -> Json:
    given = load_serve_file(_FILE)
    given["http_options"] |= {"port": port}
    app = given["applications"][0]
    app["args"] |= args
    for deployment in app["deployments"]:
        if deployment["name"] in (INGRESS, *STAGES):
            deployment["num_replicas"] = 1
            deployment.pop("autoscaling_config", None)
    return given


def free_port() -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port > 20_000:  # below, Ray's workers listen
            return port
