"""A real cluster on this machine, with the application of serve_config.yaml on it."""

from __future__ import annotations

import copy
import json
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STAGES = ("SemanticStage", "CoarseStage", "FineStage", "CodecStage")
os.environ["RAY_AUTH_MODE"] = "disabled"
# Handles of a cluster that is gone go on reporting for a while; they must not connect to the next.
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"


class Served:
    """The application under test; `deploy` changes it in place."""

    def __init__(self, address: str | None = None) -> None:
        from deployments.serve_file import load_serve_file
        from deployments.up import Cluster

        self._file = load_serve_file(ROOT / "serve_config.yaml")
        self._data = tempfile.TemporaryDirectory()
        self._file["applications"][0]["args"]["store"] = {"url": self._data.name}
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        resources = (8, 0) if address is None else (None, None)
        self._cluster = Cluster(address, *resources)

    def deploy(
        self,
        args: dict[str, Any] | None = None,
        every: dict[str, Any] | None = None,
        **deployments: dict[str, Any],
    ) -> None:
        """Deploy the file with changes, and wait until it answers.

        Args:
            args: sections of `AppConfig`. every: options of all four stages.
            deployments: options by a deployment's name; None takes one away.
        """
        from deployments.serve_file import check_serve_config

        given = copy.deepcopy(self._file)
        given["http_options"] |= {"port": self.port}
        app = given["applications"][0]
        for section, fields in (args or {}).items():
            app["args"][section] = {**app["args"].get(section, {}), **fields}
        for deployment in app["deployments"]:
            name = deployment["name"]
            changes = dict(every or {}) if name in STAGES else {}
            for key, value in {**changes, **deployments.get(name, {})}.items():
                deployment[key] = value
                if value is None:
                    del deployment[key]
        schema, _ = check_serve_config(given)
        self._cluster.deploy(schema)
        for _ in self._cluster.until_ready(self.url, threading.Event()):
            pass

    @property
    def metrics_urls(self) -> list[str]:
        return self._cluster.metrics_urls

    @property
    def data(self) -> Path:
        """The folder that is the store."""
        return Path(self._data.name)

    def handle(self, name: str = "Ingress") -> Any:
        from ray import serve

        return serve.get_deployment_handle(name, app_name="bark")

    def facts(self) -> list[dict[str, Any]]:
        """Return what each stage tells of its engine; of one replica, where there are several."""
        return [self.handle(stage).facts.remote().result() for stage in STAGES]

    def is_at_work(self) -> bool:
        return any(fact["running"] + fact["waiting"] for fact in self.facts())

    def hang_up_at_work(self, body: dict[str, Any]) -> None:
        """Ask for speech; close the connection as soon as a stage is at work on it."""
        content = json.dumps(body).encode()
        head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(head.encode() + content)
            eventually(self.is_at_work)

    def pids(self, name: str) -> list[int]:
        """Return the processes of a deployment's replicas."""
        mark = f"ray::ServeReplica:bark:{name}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and (entry / "cmdline").read_bytes().startswith(mark):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def kill(self, name: str) -> int:
        """Kill one replica of a deployment as -9 does."""
        pid = self.pids(name)[0]
        os.kill(pid, signal.SIGKILL)
        return pid

    def close(self) -> None:
        self._cluster.close()
        self._data.cleanup()


def free_port() -> int:
    with socket.socket() as probe:
        while True:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            if port > 20_000:  # below, Ray's workers listen
                return port


def eventually(is_so: Callable[[], Any], within_s: float = 60.0) -> Any:
    """Return the first true answer; fail after a generous while."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if answer := is_so():
            return answer
        time.sleep(0.2)
    raise AssertionError("it never became so")
