"""What faults leave behind: nothing lost, nothing changed. Real processes, a real kill -9."""

from __future__ import annotations

import hashlib
import random
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from cluster import STAGES, Served, eventually

from deployments.coarse import CoarseStage
from deployments.config import AppConfig

TWO_EACH = {"autoscaling_config": None, "num_replicas": 2, "health_check_period_s": 1}
ONE = {"autoscaling_config": None, "num_replicas": 1}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """A cluster that calls its stages as one of many machines does: not by gRPC, unlike others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_SERVE_USE_GRPC_BY_DEFAULT", "0")
        cluster = Served()
        try:
            yield cluster
        finally:
            cluster.close()


def speech(served, number: int, timeout_s: float = 500, **fields) -> httpx.Response:
    body = {"model": "nano", "input": f"Number {number}.", "seed": number, **fields}
    body |= {"response_format": "pcm", "timeout_s": timeout_s}
    return httpx.post(f"{served.url}/v1/audio/speech", json=body, timeout=timeout_s + 60)


def sha(answer: httpx.Response) -> str:
    return hashlib.sha256(answer.content).hexdigest()


@pytest.mark.slow
def test_ten_deaths_in_a_hundred_requests_change_nothing(served):
    served.deploy(every=TWO_EACH, Ingress=ONE)
    wanted = [sha(speech(served, number)) for number in range(20)]
    rng, killed, done = random.Random(4), [], threading.Event()

    def reap() -> None:
        while len(killed) < 10 and not done.is_set():
            stage = rng.choice(STAGES)
            if len(served.pids(stage)) > 1:
                killed.append((stage, served.kill(stage)))
            time.sleep(rng.uniform(0.5, 2.0))

    with ThreadPoolExecutor(8) as pool:
        reaper = threading.Thread(target=reap)
        reaper.start()
        answers = []
        for start in range(0, 10_000, 100):  # a hundred, and more until ten have died
            numbers = [n % 20 for n in range(start, start + 100)]
            answers += list(pool.map(lambda n: (n, speech(served, n)), numbers))
            if len(killed) == 10:
                break
        done.set()
        reaper.join()
    assert len(killed) == 10
    assert [answer.status_code for _, answer in answers] == [200] * len(answers)
    assert all(sha(answer) == wanted[number] for number, answer in answers)


def test_overload_is_refused_and_what_was_admitted_finishes(served):
    limits = {"max_running": 2, "max_waiting": 4}
    served.deploy(args={"admission": limits}, every=ONE, Ingress=ONE)
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda n: speech(served, n), range(24)))
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {200, 503}
    assert codes.count(200) >= 6
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.json()["error"]["code"] == "overloaded"
    assert int(refused.headers["Retry-After"]) >= 1
    again = [speech(served, n) for n, code in enumerate(codes) if code == 200][:3]
    firsts = [answer for answer in answers if answer.status_code == 200][:3]
    assert [sha(answer) for answer in again] == [sha(answer) for answer in firsts]


class Wedgeable(CoarseStage):
    """A coarse stage whose engine's thread can be made to hang."""

    async def wedge(self) -> None:
        self.worker.engine.thread.post(lambda: time.sleep(3600))


def test_a_wedged_engine_is_found_and_replaced(served):
    import ray
    from ray import serve

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    config = AppConfig.model_validate({"engine": {"stuck_after_s": 3.0}})
    stage = serve.deployment(Wedgeable).options(health_check_period_s=1)
    handle = serve.run(stage.bind(config), name="wedge", route_prefix=None)
    semantic = np.arange(60, dtype=np.int64)
    before = handle.generate.remote({"semantic": semantic, "seed": 1}).result()
    pid = handle.facts.remote().result()["pid"]
    handle.wedge.remote().result()

    def replaced():
        try:
            return handle.facts.remote().result(timeout_s=5)["pid"] != pid
        except Exception:
            return False

    eventually(replaced, within_s=120)
    after = handle.generate.remote({"semantic": semantic, "seed": 1}).result()
    np.testing.assert_array_equal(after["coarse"], before["coarse"])
    serve.delete("wedge")
