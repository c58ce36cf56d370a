"""One request alone, over HTTP and in this process by turns: what serving adds to it."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any, TypeVar

import httpx

from pipeline.bark import Bark
from pipeline.bench.ours import check_clip, request
from pipeline.bench.workload import Work, text
from pipeline.errors import EngineFailed

Json = dict[str, Any]
T = TypeVar("T")
SPEECH = "/v1/audio/speech"
PAIRS = 25


def alone(bark: Bark, client: httpx.Client, asked: Work, turns: int = PAIRS) -> Json:
    """Compare a request alone with the same one in this process, `turns` times.

    Returns:
        The `idle_…` fields of `deployments.bench.overhead`.

    Raises:
        EngineFailed: an answer or a clip is not the one asked for.
    """

    def over_http(number: int) -> tuple[float, float]:
        began = time.perf_counter()
        answer = post(client, number, asked)
        return time.perf_counter() - began, in_stages_s(answer.headers["Server-Timing"])

    def in_process(number: int) -> tuple[float, float]:
        began = time.perf_counter()
        clip = bark.generate(**request(number, asked))
        took_s = time.perf_counter() - began
        check_clip(clip, asked)
        return took_s, sum(report.queue_s + report.device_s for report in clip.reports)

    numbers = range(turns)
    pairs = [by_turns(n, partial(over_http, n), partial(in_process, n)) for n in numbers]
    added = [http_s - engine_s for (http_s, _), (engine_s, _) in pairs]
    outside = [(http_s - at_work_s) for (http_s, at_work_s), _ in pairs]
    inside = [(engine_s - at_work_s) for _, (engine_s, at_work_s) in pairs]
    return {
        "idle_s": median(http_s for (http_s, _), _ in pairs),
        "idle_added_s": median(added),
        "idle_added_interval_s": median_interval(added),
        "idle_pairs": len(pairs),
        "idle_between_s": median(a - b for a, b in zip(outside, inside, strict=True)),
    }


def by_turns(turn: int, one: Callable[[], T], other: Callable[[], T]) -> tuple[T, T]:
    """Call both, each of them first at every second turn."""
    if turn % 2:
        first = one()
        return first, other()
    second = other()
    return one(), second


def post(client: httpx.Client, number: int, asked: Work) -> httpx.Response:
    """Ask for speech, and check that it is as long as it was to be.

    Raises:
        EngineFailed: it is not.
    """
    answer = client.post(SPEECH, json=speech_body(number, text(number), asked))
    if answer.status_code != 200 or len(answer.content) != round(asked.seconds * 24_000) * 2:
        raise EngineFailed(f"HTTP {answer.status_code}, {len(answer.content)} bytes")
    return answer


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the median of at least 6 values, in their unit.

    From their order alone (Conover, Practical Nonparametric Statistics, 3.2), so whatever their
    distribution: the number of values below the true median is binomial, here by its normal
    approximation.
    """
    away = int((len(values) + 1 - 1.96 * math.sqrt(len(values))) / 2)
    ordered = sorted(values)
    return ordered[away - 1], ordered[-away]


def in_stages_s(server_timing: str) -> float:
    """Return the seconds that a `Server-Timing` header says the stages took, their queues too."""
    spent = re.findall(r"([\w-]+);dur=([\d.]+)", server_timing)
    return sum(float(ms) for part, ms in spent if part != "total") / 1000


def speech_body(number: int, said: str, work: Work) -> Json:
    return {
        "model": "tts-1",
        "input": said,
        "seed": number,
        "response_format": "pcm",
        "semantic": work.semantic_fields,
    }
