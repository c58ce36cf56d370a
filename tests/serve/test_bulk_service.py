"""Bulk rows through a running service: the same sounds, and everyone else goes first."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from cluster import Served, eventually

from pipeline.generations import Generations
from pipeline.store import open_store

ONE = {"autoscaling_config": None, "num_replicas": 1}
ROWS: list[dict[str, Any]] = [{"id": f"n{n}", "text": f"Number {n}.", "seed": n} for n in range(24)]


@pytest.fixture(scope="module")
def service(served: Served) -> Served:
    """Return one with a single slot: whoever is there first would be served first."""
    served.deploy(args={"engine": {"semantic_slots": 1, "coarse_slots": 1}}, every=ONE, Ingress=ONE)
    return served


def command(folder: Path, output: str, rows: list[dict[str, Any]]) -> list[str]:
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    address = ray.get_runtime_context().gcs_address
    return [
        *(sys.executable, "-m", "deployments.bulk", "--via-serve", "--json"),
        *("--address", address, "--input", str(path), "--output", output),
    ]


def last_line(arguments: list[str]) -> dict[str, Any]:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=400)
    assert done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def job(served: Served, row: dict[str, Any]) -> dict[str, Any]:
    """Let the service make a row, and return its card."""
    fields = {"model": "nano", "input": row["text"], "seed": row["seed"], "response_format": "wav"}
    with httpx.Client(base_url=served.url, timeout=60) as client:
        made = client.post("/v1/generations", json=fields).json()

        def ended() -> dict[str, Any] | None:
            card = client.get(f"/v1/generations/{made['id']}").json()
            return card if card["status"] == "succeeded" else None

        return eventually(ended, 120)


def calls(served: Served) -> int:
    return int(served.handle("SemanticStage").facts.remote().result(timeout_s=30)["calls"])


def test_what_one_way_has_made_the_other_does_not_make_again(service, tmp_path):
    output = service._data.name  # the service's own store
    first = job(service, ROWS[0])
    before = calls(service)
    end = last_line(command(tmp_path, output, [*ROWS[:3], {"id": "bad", "text": ""}]))
    assert (end["ok"], end["errors"]) == (3, 1)
    assert calls(service) == before + 2
    assert job(service, ROWS[1])["seed"] == 1
    assert calls(service) == before + 2
    assert first["status"] == "succeeded"
    end = last_line(command(tmp_path, output, ROWS[:3]))
    assert (end["made"], end["errors"]) == (0, 0)


def test_a_request_passes_the_rows_that_wait_and_those_under_way(service, tmp_path):
    output = tmp_path / "out"
    kept = Generations(open_store(output))
    arguments = command(tmp_path, str(output), ROWS)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as bulk:
        assert bulk.stdout is not None
        drained = threading.Thread(target=bulk.stdout.read)
        drained.start()
        eventually(lambda: len(kept.list()) >= 2, 120)
        body = {"model": "nano", "input": "Good morning.", "response_format": "wav"}
        for seed in range(3):
            before = len(kept.list())
            url = f"{service.url}/v1/audio/speech"
            assert httpx.post(url, json={**body, "seed": seed}, timeout=120).status_code == 200
            # what was at the very end of its way; in turn, all sixteen under way would be
            assert len(kept.list()) - before <= 4
            time.sleep(0.5)
        bulk.wait(300)
        drained.join()
    assert bulk.returncode == 0
    assert len(kept.list()) == len(ROWS)


def test_a_priority_that_does_not_exist_is_refused(service):
    with pytest.raises(ValueError, match="priority is 'low'"):
        service.handle().generate.remote({"text": "Hello.", "priority": "high"}).result()
