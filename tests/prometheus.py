"""The real Prometheus of Debian: a server that scrapes, and promtool."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"needs {name}: apt install --no-install-recommends prometheus")
    return found


def promtool(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("promtool"), *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


class Prometheus:
    """A server on loopback that scrapes its targets every second.

    rules: the content of a file of rules.
    """

    def __init__(self, folder: Path, targets: list[str], rules: dict[str, Any]) -> None:
        self._folder = folder
        (folder / "rules.yml").write_text(yaml.safe_dump(rules))
        config = {
            "global": dict.fromkeys(
                ("scrape_interval", "scrape_timeout", "evaluation_interval"), "1s"
            ),
            "rule_files": ["rules.yml"],
            "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": targets}]}],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    program("prometheus"),
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5):
                    return
            except OSError:
                assert self._process.poll() is None, (folder / "log").read_text()[-2000:]
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an instant query: `metric` and `value`, a float."""
        query = urllib.parse.urlencode({"query": expression})
        found = self._get(f"/api/v1/query?{query}")["result"]
        return [{"metric": one["metric"], "value": float(one["value"][1])} for one in found]

    def value(self, expression: str) -> float | None:
        """Return the one value of an expression; None where there is none."""
        found = self.query(expression)
        assert len(found) < 2, f"{expression} has {len(found)} series"
        return found[0]["value"] if found else None

    def rules(self) -> list[dict[str, Any]]:
        """Return every rule with its health and its state."""
        return [rule for group in self._get("/api/v1/rules")["groups"] for rule in group["rules"]]

    def close(self) -> None:
        self._process.kill()
        self._process.wait(timeout=10)

    def _get(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(self.url + path, timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error


def _free_port() -> int:
    with socket.socket() as probe:
        while True:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            if port > 20_000:
                return port
