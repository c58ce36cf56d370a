"""`make cluster-sim`: production's pools on one machine, under load, and what scaled when.

Nodes are processes (`nodes.py`) with the labels and logical resources of the worker groups in
k8s/overlays/production, added and removed by Ray's autoscaler; the application is the one that the
RayService there deploys, with nano on CPUs, shorter delays (`--pace`) and fewer nodes at most.

Three acts, each of which must come true, or the command fails:
1. work for the coarse stage alone: the coarse pool grows, no other does;
2. no work: it shrinks to its minimum;
3. requests over HTTP while a node is lost at once: all are answered, with the bytes they have
   without the loss, and the node is replaced.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import yaml
from nodes import Nodes, Pool, free_port
from rich.console import Console
from rich.table import Table

from deployments.serve_file import check_serve_config
from deployments.up import Cluster

ROOT = Path(__file__).parents[2]
OVERLAY = "k8s/overlays/production"
MOST_NODES = 2  # of a pool: all of them share this machine
TEXTS = [f"Room number {number} is ready." for number in range(8)]
CALLERS = 4
_PATIENCE_S = 300.0
_LOOK_EVERY_S = 0.5


def production() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the worker groups and the Serve config of the overlay's RayService."""
    built = subprocess.check_output(["kubectl", "kustomize", str(ROOT / OVERLAY)], text=True)
    service = next(d for d in yaml.safe_load_all(built) if d and d["kind"] == "RayService")
    groups = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    return groups, yaml.safe_load(service["spec"]["serveConfigV2"])


def pool_of(group: dict[str, Any], pace: float) -> Pool:
    """Return a worker group as a pool of this machine."""
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    resources = {"CPU": _cores(limits["cpu"])}
    if gpus := int(limits.get("nvidia.com/gpu", 0)):
        resources["GPU"] = gpus
    return Pool(
        name=group["groupName"],
        labels=group.get("labels", {}),
        resources=resources,
        min_nodes=min(group["minReplicas"], 1),
        max_nodes=min(group["maxReplicas"], MOST_NODES),
        idle_s=max(5.0, group["idleTimeoutSeconds"] * pace),
    )


def _cores(quantity: str | float) -> float:
    text = str(quantity)
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def local(config: dict[str, Any], store: str, port: int, pace: float) -> dict[str, Any]:
    """Return the Serve config with what this machine can not have in another way."""
    config["proxy_location"] = "HeadOnly"  # the node that no act takes away
    config["http_options"] |= {"host": "127.0.0.1", "port": port}
    app = config["applications"][0]
    app["args"]["model"] = {"name": "nano", "device": "cpu"}
    app["args"]["store"] = {"url": store}
    app["args"].pop("access", None)
    for deployment in app["deployments"]:
        if scaling := deployment.get("autoscaling_config"):
            scaling["min_replicas"] = scaling["initial_replicas"] = 1
            scaling["max_replicas"] = min(scaling["max_replicas"], MOST_NODES)
            for key, usual_s in (("upscale_delay_s", 30), ("downscale_delay_s", 600)):
                scaling[key] = max(1.0, scaling.get(key, usual_s) * pace)
            scaling["look_back_period_s"] = 11.0  # more than Serve's ten between two looks
    return config


class Sim:
    """The cluster, the application, and a record of how many nodes and replicas there were."""

    def __init__(self, pace: float, console: Console) -> None:
        self.console, self.events = console, []
        self._began = time.monotonic()
        groups, config = production()
        self._store = tempfile.TemporaryDirectory()
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.say(f"{len(groups)} pools of {OVERLAY}")
        self.nodes = Nodes([pool_of(group, pace) for group in groups])
        self._last: dict[str, int] = {}
        self._done = threading.Event()
        try:
            self.config = local(config, self._store.name, self._port, pace)
            schema, _ = check_serve_config(self.config)
            self._cluster = Cluster(self.nodes.address, None, None)
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()
            self._cluster.deploy(schema)
            for _ in self._cluster.until_ready(self.url, threading.Event()):
                self.nodes.check()
        except BaseException:
            self.nodes.close()
            raise
        self.say("the application answers")

    def say(self, text: str) -> None:
        """Tell what happens, and keep it."""
        at_s = time.monotonic() - self._began
        self.events.append({"at_s": round(at_s, 1), "event": text})
        self.console.print(f"{at_s:7.1f} s  {text}", highlight=False)

    def target(self, stage: str) -> int:
        """Return how many requests a replica of a stage is meant to have."""
        deployments = self.config["applications"][0]["deployments"]
        scaling = next(d["autoscaling_config"] for d in deployments if d["name"] == stage)
        return int(scaling["target_ongoing_requests"])

    def counts(self) -> dict[str, int]:
        return {pool: len(ids) for pool, ids in self.nodes.alive().items()}

    def _watch(self) -> None:
        while not self._done.wait(_LOOK_EVERY_S):
            for pool, number in self.counts().items():
                before = self._last.get(pool, 0)
                if number != before:
                    self.say(f"{pool}: {before} ▸ {number} nodes")
                self._last[pool] = number

    def until(self, what: str, is_so: Callable[[], bool]) -> None:
        """Wait for it; raise if it never comes."""
        end = time.monotonic() + _PATIENCE_S
        while not is_so():
            self.nodes.check()
            if time.monotonic() > end:
                raise AssertionError(f"never came true: {what}; nodes: {self.counts()}")
            time.sleep(_LOOK_EVERY_S)
        self.say(what)

    def handle(self, stage: str) -> Any:
        from ray import serve

        return serve.get_deployment_handle(stage, app_name="bark")

    def close(self) -> None:
        self._done.set()
        self._cluster.close()
        self.nodes.close()
        self._store.cleanup()


def grow_coarse_alone(sim: Sim) -> None:
    """Act 1."""
    before = sim.counts()
    semantic = np.arange(200, dtype=np.int64)
    coarse, stop = sim.handle("CoarseStage"), threading.Event()
    num_callers = 2 * sim.target("CoarseStage")

    def work(number: int) -> None:
        while not stop.is_set():
            coarse.generate.remote({"semantic": semantic, "seed": number}).result()

    sim.say("act 1: work for the coarse stage alone")
    with ThreadPoolExecutor(num_callers) as callers:
        working = [callers.submit(work, number) for number in range(num_callers)]
        try:
            sim.until(
                "the coarse pool has grown", lambda: sim.counts()["coarse"] > before["coarse"]
            )
            sim.until("a second coarse replica works", lambda: _replicas(coarse) > 1)
        finally:
            stop.set()
        for each in working:
            each.result()
    others = {pool: number for pool, number in sim.counts().items() if pool != "coarse"}
    wanted = {pool: number for pool, number in before.items() if pool != "coarse"}
    assert others == wanted, f"other pools moved: {wanted} ▸ {others}"
    sim.say("no other pool has moved")


def shrink(sim: Sim) -> None:
    """Act 2."""
    sim.say("act 2: no work")
    least = {name: max(1, pool.min_nodes) for name, pool in sim.nodes.pools.items()}
    sim.until("every pool is at its least", lambda: sim.counts() == least)


def lose_a_node(sim: Sim) -> None:
    """Act 3."""
    wanted = [_speak(sim.url, number) for number in range(len(TEXTS))]
    sim.say("act 3: requests over HTTP, and a coarse node is lost")
    lost = sim.nodes.alive()["coarse"][0]
    with ThreadPoolExecutor(CALLERS) as callers:
        numbers = [n % len(TEXTS) for n in range(4 * len(TEXTS))]
        answers = [callers.submit(_speak, sim.url, number) for number in numbers]
        while not any(answer.done() for answer in answers):
            time.sleep(0.05)
        killed = sim.nodes.kill(lost)
        assert killed, "no process of the node was found"
        sim.say(f"killed {len(killed)} processes of node …{lost[-5:]}")
        heard = [answer.result() for answer in answers]
    for number, (status, digest) in zip(numbers, heard, strict=True):
        assert status == 200, f"request {number} got {status}"
        assert digest == wanted[number][1], f"request {number} got other bytes"
    sim.say(f"{len(heard)} requests answered, each with the bytes it has without the loss")
    sim.until(
        "the node is replaced",
        lambda: lost not in (now := sim.nodes.alive()["coarse"]) and bool(now),
    )


def _speak(url: str, number: int) -> tuple[int, str]:
    body = {"model": "nano", "input": TEXTS[number], "seed": number, "response_format": "pcm"}
    answer = httpx.post(f"{url}/v1/audio/speech", json=body, timeout=_PATIENCE_S)
    return answer.status_code, hashlib.sha256(answer.content).hexdigest()


def _replicas(handle: Any) -> int:
    return len({fact["pid"] for fact in handle.broadcast("facts").results()})


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pace", type=float, default=0.02, help="production's delays times this")
    parser.add_argument("--json", action="store_true", help="the record, as the last line")
    options = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    for whose in ("REPLICA", "HANDLE"):
        os.environ[f"RAY_SERVE_{whose}_AUTOSCALING_METRIC_PUSH_INTERVAL_S"] = "0.5"
    console = Console(stderr=True)
    sim = Sim(options.pace, console)
    try:
        for act in (grow_coarse_alone, shrink, lose_a_node):
            act(sim)
    finally:
        sim.close()
    table = Table("at", "event", title="what scaled when", title_justify="left")
    for event in sim.events:
        table.add_row(f"{event['at_s']:.1f} s", event["event"])
    Console().print(table)
    if options.json:
        print(json.dumps(sim.events))
    return 0


if __name__ == "__main__":
    sys.exit(main())
