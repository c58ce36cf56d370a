"""Ray nodes as processes of this machine, added and removed by Ray's own autoscaler (v2).

Its fake provider starts a raylet where a cloud would start a machine. The wheel lacks that
provider's default configuration, so it is named as an external one, which needs none.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
HEAD_NODE_ID = "f" * 51 + "00000"  # the provider counts on from it
HEAD = "ray.head.default"
_START_S = 120.0
_STOP_S = 20.0


@dataclass(frozen=True)
class Pool:
    """One kind of node: what it has, how many there may be, how long an idle one stays."""

    name: str
    labels: dict[str, str]
    resources: dict[str, float]
    min_nodes: int
    max_nodes: int
    idle_s: float


class Nodes:
    """A head without work, and pools that the autoscaler fills and empties. Connects to it."""

    def __init__(self, pools: list[Pool]) -> None:
        import ray

        self.pools = {pool.name: pool for pool in pools}
        self._folder = tempfile.TemporaryDirectory(prefix="bark-sim-", dir="/tmp")
        folder = Path(self._folder.name)
        address = f"{ray.util.get_node_ip_address()}:{free_port()}"
        (folder / "autoscaling.json").write_text(json.dumps(_config(pools, address)))
        environment = os.environ | {
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_NODE_ID,
        }
        self._log = (folder / "head.log").open("w+")
        command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block"]
        command += [f"--port={address.rpartition(':')[2]}", f"--temp-dir={folder}"]
        command += [f"--autoscaling-config={folder / 'autoscaling.json'}", "--num-cpus=0"]
        command += ["--include-dashboard=false", "--disable-usage-stats"]
        self._head = subprocess.Popen(
            command, env=environment, stdout=self._log, stderr=subprocess.STDOUT
        )
        self.address = address
        try:
            self._wait_for_gcs(address)
        except BaseException:
            self.close()
            raise

    def _wait_for_gcs(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        end = time.monotonic() + _START_S
        while time.monotonic() < end:
            self.check()
            with suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
                return
            time.sleep(0.2)
        raise RuntimeError(f"the head did not start:\n{self._last_words()}")

    def check(self) -> None:
        """Raise if the head has ended."""
        if self._head.poll() is not None:
            raise RuntimeError(f"the head has ended:\n{self._last_words()}")

    def _last_words(self) -> str:
        self._log.seek(0)
        return self._log.read()[-2000:]

    def alive(self) -> dict[str, list[str]]:
        """Return the ids of the nodes of each pool."""
        import ray

        found: dict[str, list[str]] = {name: [] for name in self.pools}
        for node in ray.nodes():
            if node["Alive"] and (pool := self._pool_of(node)) is not None:
                found[pool].append(node["NodeID"])
        return found

    def _pool_of(self, node: dict[str, Any]) -> str | None:
        for pool in self.pools.values():
            if pool.labels.items() <= node.get("Labels", {}).items():
                return pool.name
        return None

    def kill(self, node_id: str) -> list[int]:
        """Lose a node as a machine is lost: all its processes at once, as -9 does."""
        raylets = [pid for pid, line in self._processes() if node_id.encode() in line]
        doomed = {*raylets, *(child for pid in raylets for child in _descendants(pid))}
        for pid in doomed:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return sorted(doomed)

    def close(self) -> None:
        """Stop the head and whatever was started under this cluster's folder."""
        if self._head.poll() is None:
            self._head.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._head.wait(_STOP_S)
        for pid, _ in self._processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._log.close()
        self._folder.cleanup()

    def _processes(self) -> list[tuple[int, bytes]]:
        """Return this cluster's processes with their command lines, which name its folder."""
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit():
                    line = (entry / "cmdline").read_bytes()
                    if self._folder.name.encode() in line and int(entry.name) != os.getpid():
                        found.append((int(entry.name), line))
        return found


def _config(pools: list[Pool], address: str) -> dict[str, Any]:
    types: dict[str, Any] = {
        pool.name: {
            "resources": pool.resources,
            "labels": pool.labels,
            "node_config": {},
            "min_workers": pool.min_nodes,
            "max_workers": pool.max_nodes,
            "idle_timeout_s": pool.idle_s,
        }
        for pool in pools
    }
    types[HEAD] = {"resources": {}, "node_config": {}, "max_workers": 0}
    return {
        "cluster_name": "bark-sim",
        "max_workers": sum(pool.max_nodes for pool in pools),
        "provider": {
            "type": "external",
            "module": PROVIDER,
            "gcs_address": address,
            "launch_multiple": True,
            "head_node_id": HEAD_NODE_ID,
        },
        "available_node_types": types,
        "head_node_type": HEAD,
        "idle_timeout_minutes": max(pool.idle_s for pool in pools) / 60,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }


def _descendants(pid: int) -> list[int]:
    found = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *_descendants(int(child))]
    return found


def free_port() -> int:
    """Return a port above those that Ray's workers listen on."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port > 20_000:
            return port
