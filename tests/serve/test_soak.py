"""Hours in minutes: `make soak`. Traffic of every kind, then what is left of it in each process."""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from cluster import STAGES, eventually

SOAK_S = float(os.environ.get("SOAK_S", "1200"))
WARM_UP_SHARE = 0.3  # caches fill, pools grow: what comes after must be flat
ONE = {"autoscaling_config": None, "num_replicas": 1}
TEXTS = ["Good morning.", "One two three. Four five six. " * 4, "Where do you live?"]


def one_request(served, rng: random.Random) -> int:
    """Speak, or give up half way; return the status, 0 for the latter."""
    body = {"model": "nano", "input": rng.choice(TEXTS), "seed": rng.randrange(1000)}
    body |= {"response_format": rng.choice(["mp3", "wav", "opus"])}
    patience = rng.choice([300.0, 300.0, 300.0, 0.3])
    try:
        return httpx.post(f"{served.url}/v1/audio/speech", json=body, timeout=patience).status_code
    except httpx.ReadTimeout:
        return 0


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.soak
def test_twenty_minutes_leave_nothing_behind(served):
    served.deploy(every=ONE, Ingress=ONE)
    names = [*STAGES, "Ingress"]
    pids = {name: served.pids(name)[0] for name in names}
    stop, statuses = threading.Event(), []

    def caller(number: int) -> None:
        rng = random.Random(number)
        while not stop.is_set():
            statuses.append(one_request(served, rng))

    def measured() -> dict[str, tuple[int, int]]:
        return {name: (resident_bytes(pid), open_files(pid)) for name, pid in pids.items()}

    with ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(caller, number) for number in range(4)]
        time.sleep(SOAK_S * WARM_UP_SHARE)
        before = measured()
        time.sleep(SOAK_S * (1 - WARM_UP_SHARE))
        after = measured()
        stop.set()
        for each in callers:
            each.result()
    print({s: statuses.count(s) for s in set(statuses)}, before, after)
    assert set(statuses) <= {0, 200}
    assert {name: served.pids(name)[0] for name in names} == pids, "a replica was replaced"
    for name in names:
        assert after[name][0] < before[name][0] * 1.05 + 20e6, f"{name} grew"
        assert after[name][1] <= before[name][1] + 10, f"{name} keeps files open"

    def idle() -> bool:
        facts = [served.handle(stage).facts.remote().result() for stage in STAGES]
        front = served.handle().facts.remote().result()
        return not any(f["running"] + f["waiting"] for f in (*facts, front))

    eventually(idle)
