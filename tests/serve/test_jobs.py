"""Jobs on a real cluster with a real S3 server, while processes die: each ends exactly once."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from cluster import Served, eventually
from s3_server import S3Server

from pipeline.store import open_store

NUM_JOBS = int(os.environ.get("BARK_TEST_JOBS", "100"))  # `make soak`: a thousand
ENDED = ("succeeded", "failed", "cancelled")
ONE = {"autoscaling_config": None, "num_replicas": 1}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[S3Server]:
    found = S3Server(tmp_path_factory.mktemp("weed"))
    try:
        yield found
    finally:
        found.kill()


@pytest.fixture(scope="module")
def served(server: S3Server) -> Iterator[Served]:
    """Return a cluster of which every process finds the server."""
    before = dict(os.environ)
    os.environ.update(server.environment())
    cluster = Served()
    try:
        cluster.deploy(
            args={
                "store": {"url": server.location("jobs").url, "endpoint": server.url},
                "jobs": {"lease_s": 5, "poll_s": 0.5, "max_running": 16},
                "model": {"precision": "int8"},
            },
            every=ONE,
            Ingress={"autoscaling_config": None, "num_replicas": 2, "health_check_period_s": 1},
        )
        yield cluster
    finally:
        cluster.close()
        os.environ.clear()
        os.environ.update(before)


def body(number: int) -> dict[str, object]:
    text = {"input": f"Number {number}.", "seed": number}
    return {"model": "nano", "response_format": "wav", **text}


def submit(served: Served, client: httpx.Client, number: int) -> str:
    """Submit until it is taken: whoever got no answer asks again, and it is the same job."""

    def ask() -> str | None:
        try:
            answer = client.post(f"{served.url}/v1/generations", json=body(number))
        except httpx.HTTPError:
            return None
        return str(answer.json()["id"]) if answer.status_code == 202 else None

    return eventually(ask, 120)


def card(served: Served, client: httpx.Client, job_id: str) -> dict[str, object]:
    def ask() -> dict[str, object] | None:
        try:
            answer = client.get(f"{served.url}/v1/generations/{job_id}")
        except httpx.HTTPError:
            return None
        return answer.json() if answer.status_code == 200 else None

    return eventually(ask, 120)


@pytest.mark.slow
def test_jobs_end_once_each_while_ingresses_die(served: Served, server: S3Server):
    rng, killed, over = random.Random(5), [], threading.Event()

    def reap() -> None:
        while not over.wait(rng.uniform(2, 6)):
            if len(served.pids("Ingress")) > 1:
                killed.append(served.kill("Ingress"))

    reaper = threading.Thread(target=reap)
    with httpx.Client(timeout=30) as client, ThreadPoolExecutor(8) as pool:
        reaper.start()
        try:
            ids = list(pool.map(lambda n: submit(served, client, n), range(NUM_JOBS)))
            first: dict[str, dict[str, object]] = {}

            def all_ended() -> bool:
                waiting = [job_id for job_id in ids if job_id not in first]
                for found in pool.map(lambda job_id: card(served, client, job_id), waiting[:50]):
                    if found["status"] in ENDED:
                        first[str(found["id"])] = found
                return len(first) == NUM_JOBS

            eventually(all_ended, 1500)
        finally:
            over.set()
            reaper.join()
        assert len(killed) >= min(5, NUM_JOBS // 50)
        assert len(set(ids)) == NUM_JOBS
        last = list(pool.map(lambda job_id: card(served, client, job_id), ids))
    assert [found["status"] for found in last] == ["succeeded"] * NUM_JOBS
    for found in last:  # what had ended has not ended again
        then = first[str(found["id"])]
        assert (found["ended_at"], found["audio"]["sha256"]) == (
            then["ended_at"],
            then["audio"]["sha256"],
        )
    assert max(int(found["attempts"]) for found in last) > 1  # some had to be taken over
    store = open_store(server.location("jobs"))
    assert store.list("queue/") == []
    assert len([key for key in store.list("generations/") if key.endswith(".json")]) == NUM_JOBS

    def matches(found: dict[str, object]) -> bool:
        number = str(found["generation_id"])
        manifest = store.get(f"generations/{number[:2]}/{number}/manifest.json") or b"{}"
        sound = store.get(f"generations/{number[:2]}/{number}/audio.wav") or b""
        digest = hashlib.sha256(sound).hexdigest()
        return digest in manifest.decode() and digest == found["audio"]["sha256"]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(matches, last))


def test_while_the_store_is_away_others_are_served_and_jobs_wait(served: Served, server: S3Server):
    speech = {"model": "nano", "input": "Good morning.", "seed": 1, "voice": "heart"}
    long = {**body(2000), "input": "Good morning. How are you today? " * 20}
    with httpx.Client(base_url=served.url, timeout=120) as client:
        job_id = client.post("/v1/generations", json=long).json()["id"]
        eventually(lambda: card(served, client, job_id)["status"] == "running")
        server.kill()
        away_s = time.monotonic()
        for _ in range(5):
            assert client.post("/v1/audio/speech", json=speech).status_code == 200
        assert client.get("/healthz").status_code == 200
        refused = client.post("/v1/generations", json=body(2001))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
        kept = client.post("/v1/audio/speech", json={**speech, "store": True})
        assert kept.status_code == 503  # it was to be kept, and can not be
        time.sleep(max(0.0, 8 - (time.monotonic() - away_s)))  # longer than a lease
        server.start()

        def ended() -> dict[str, object] | None:
            found = client.get(f"/v1/generations/{job_id}")
            known = found.status_code == 200 and found.json()["status"] in ENDED
            return found.json() if known else None

        assert eventually(ended, 180)["status"] == "succeeded"
        # each ingress finds out for itself that the store is back
        eventually(
            lambda: all(
                client.post("/v1/generations", json=body(2001)).status_code == 202
                for _ in range(12)
            )
        )


def test_a_voice_added_while_it_runs_is_heard_by_every_replica(served: Served):
    with httpx.Client(base_url=served.url, timeout=120) as client:
        speech = {"model": "nano", "input": "Good morning.", "seed": 3, "response_format": "pcm"}
        made = client.post("/v1/audio/speech", json={**speech, "store": True})
        form = {"name": "late", "generation_id": made.headers["X-Bark-Id"]}
        assert client.post("/v1/audio/voices", data=form).status_code == 201
        answers = [
            client.post("/v1/audio/speech", json={**speech, "voice": "late"}) for _ in "1234"
        ]
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1
        assert answers[0].content != made.content
        by_stage = served.handle("SemanticStage").generate
        assert len(by_stage.remote({"text": "Hello.", "voice": "late", "seed": 1}).result())
        assert client.delete("/v1/audio/voices/late").status_code == 204
        gone = client.post("/v1/audio/speech", json={**speech, "voice": "late"})
        assert gone.status_code == 404
