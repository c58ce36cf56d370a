"""`bark-serve up` as a person uses it: a real process, a real Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from cluster import eventually, free_port

ROOT = Path(__file__).parents[2]
TEXT = "Good morning. How are you today? " * 8


def start(*words, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "up", *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled", "TERM": "dumb"},
        **options,
    )


def test_ctrl_c_drains_what_was_admitted_and_leaves_nothing():
    port, metrics_port = free_port(), free_port()
    process = start("--port", port, "--num-cpus", 8, "--metrics-port", metrics_port)
    try:
        greeting = [process.stdout.readline() for _ in range(5)]
        assert greeting[0] == f"ready: http://127.0.0.1:{port}\n"
        assert "curl" in greeting[1]
        for_prometheus = greeting[4].split()[0]
        assert for_prometheus.endswith(f":{metrics_port}/metrics")
        assert "\nray_" in httpx.get(for_prometheus, timeout=60).text
        answers = []
        body = {"model": "nano", "input": TEXT, "seed": 1, "response_format": "pcm"}

        def post():
            url = f"http://127.0.0.1:{port}/v1/audio/speech"
            answers.append(httpx.post(url, json=body, timeout=300))

        in_flight = threading.Thread(target=post)
        in_flight.start()
        time.sleep(1.0)
        readyz = f"http://127.0.0.1:{port}/readyz"
        eventually(lambda: httpx.get(readyz, timeout=60).status_code == 200)
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=240)
        in_flight.join()
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert "draining" in err
    assert [answer.status_code for answer in answers] == [200]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/healthz")
    eventually(lambda: not processes_of(process.pid))
    process.stdout.close()
    process.stderr.close()


def processes_of(session: int) -> list[str]:
    """Return the commands of all processes in a session."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getsid(int(entry.name)) == session:
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return [command for command in found if command]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "nowhere.yaml"], "can not read nowhere.yaml"),
        (["--host", "0.0.0.0"], "refusing to listen on 0.0.0.0 without API keys"),
        (["--model", "no/such/model"], "there is no model or folder"),
    ],
)
def test_what_can_not_be_served_is_refused_before_ray_starts(words, message):
    process = start(*words)
    _, err = process.communicate(timeout=240)
    assert process.returncode in (1, 2)
    assert message in err
