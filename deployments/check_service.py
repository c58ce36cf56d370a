"""The application on a cluster of its own, and who sends it requests at given moments."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from random import Random
from statistics import median
from typing import Any

import httpx

from deployments.bench import free_port, local_config
from deployments.request_alone import alone, speech_body
from deployments.serve_file import check_serve_config
from deployments.up import Cluster
from pipeline.bark import Bark
from pipeline.bench.workload import Work, text
from pipeline.capacity.simulation import poisson
from pipeline.errors import EngineFailed

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sent:
    """A request: when, in seconds since the first, and how long its answer took."""

    at_s: float
    took_s: float


class Served:
    """The application on a cluster of its own, one replica a stage; a client for it.

    work: of every request. slots: of the semantic and coarse stages. seed: of the random moments.
    """

    def __init__(self, model: str, precision: str, work: Work, slots: int, seed: int) -> None:
        self._random = Random(seed)
        self._load = partial(Bark.load, model, precision=precision)
        self._work, self._sent = work, 0
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        port = free_port()
        args = {
            "model": {"name": model, "precision": precision},
            "engine": {"semantic_slots": slots, "coarse_slots": slots},
            "admission": {"max_running": 1000},
        }
        schema, _ = check_serve_config(local_config(port, args))
        self._cluster = Cluster(None, num_cpus=max(8, os.cpu_count() or 1), num_gpus=None)
        self._url = f"http://127.0.0.1:{port}"
        try:
            self._cluster.deploy(schema)
            for waiting in self._cluster.until_ready(self._url, threading.Event()):
                del waiting
        except BaseException:
            self._cluster.close()
            raise

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.close()

    def alone(self) -> Json:
        """Return what one request after the other takes, and the service's part of it."""
        with self._load() as bark, httpx.Client(base_url=self._url, timeout=600) as client:
            return alone(bark, client, self._work)

    def idle_s(self, requests: int) -> float:
        """Return what one request after the other takes, the median of so many, in seconds."""
        return median(self.send([0.0])[0].took_s for _ in range(requests))

    def send(self, moments_s: Sequence[float]) -> list[Sent]:
        """Send a request at each moment, and wait for all answers."""
        return asyncio.run(self._send(moments_s))

    def send_at_random(self, rps: float, requests: int) -> list[Sent]:
        """Send so many requests at random moments (Poisson), `rps` a second."""
        arrivals = islice(poisson(rps, [((),)], self._random), requests)
        return self.send([arrival.at_s for arrival in arrivals])

    async def _send(self, moments_s: Sequence[float]) -> list[Sent]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self._url, timeout=600, limits=limits) as client:
            began = time.perf_counter() - moments_s[0]

            async def one(moment_s: float, number: int) -> Sent:
                await asyncio.sleep(began + moment_s - time.perf_counter())
                sent = time.perf_counter()
                body = speech_body(number, text(number), self._work)
                answer = await client.post("/v1/audio/speech", json=body)
                if answer.status_code != 200:
                    raise EngineFailed(f"HTTP {answer.status_code}")
                return Sent(sent - began, time.perf_counter() - sent)

            first, self._sent = self._sent, self._sent + len(moments_s)
            return await asyncio.gather(*(one(m, first + n) for n, m in enumerate(moments_s)))
