"""Metrics: every name, what it counts, and what tells its series apart; knows no Ray.

They are recorded here, and go where `send_to` said: to Ray in a replica (`ray_metrics`), nowhere
elsewhere. Ray puts `ray_` before each name, and `_total` behind a counter's: what Prometheus sees
of REQUESTS is `ray_bark_http_requests_total`. Ray also adds `deployment`, `replica` and
`application`, and exports what it counts itself (`ray_serve_…`: replicas, autoscaling, routing).

Labels have few values, and known ones: never a voice, an id, a text. Nothing that is recorded
here can make a request fail.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Final

from pipeline.engine.counters import OUTCOMES, STEP_BOUNDS_S
from pipeline.errors import BarkError

log = logging.getLogger(__name__)

STAGES: Final = ("semantic", "coarse", "fine", "codec")
WAYS: Final = ("http", "handle", "job")
# Seconds, from what a listener does not notice to a long text on a busy CPU.
_WAITS_S: Final = (
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0),
    *(30.0, 45.0, 60.0, 120.0, 300.0, 600.0, 1800.0),
)
_STORE_S: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
# Below 1 sound is made faster than it is heard.
_FACTORS: Final = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0)


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One name. labels: each with all its values, or none where they are not known before."""

    name: str
    help: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def series(self, **fixed: str) -> Iterator[dict[str, str]]:
        """Yield the labels of all its series; none where some values are not known before.

        fixed: labels of which only this value is wanted.
        """
        values = [(fixed[k],) if k in fixed else v for k, v in self.labels.items()]
        return (dict(zip(self.labels, one, strict=True)) for one in product(*values))


class Counter(Metric):
    """Only grows."""

    def add(self, amount: float = 1.0, **labels: str) -> None:
        if amount > 0:
            _record(self, amount, labels)


class Gauge(Metric):
    """Goes up and down. Ray forgets it after a while: set it again and again."""

    def set(self, value: float, **labels: str) -> None:
        _record(self, value, labels)


@dataclass(frozen=True, slots=True, eq=False)
class Histogram(Metric):
    """Counts by size. NOTE: its sum is what Ray guesses from the buckets; the counts are true."""

    buckets: tuple[float, ...] = ()

    def observe(self, value: float, **labels: str) -> None:
        _record(self, value, labels)


# ── where they go ────────────────────────────────────────────────────────────────────────────────
Sink = Callable[[Metric, float, Mapping[str, str]], None]
_sinks: list[Sink] = []
_complained: set[str] = set()


def send_to(sink: Sink | None) -> None:
    """Let this process's metrics go to a sink, in place of the one before; None: nowhere."""
    _sinks[:] = [] if sink is None else [sink]
    _complained.clear()


def _record(metric: Metric, value: float, labels: Mapping[str, str]) -> None:
    for sink in _sinks:
        try:
            sink(metric, value, labels)
        except Exception:  # a figure is lost, no request
            if metric.name not in _complained:  # once: it will fail again and again
                _complained.add(metric.name)
                log.exception("metric %s is not recorded", metric.name)


# ── a stage: told by its replicas, from the engine's own counters ────────────────────────────────
_OF_STAGE: Final = {"stage": STAGES}
_OF_STEP: Final = {"stage": STAGES, "kind": ("prefill", "decode")}
STEP_BOUNDS: Final = (*(str(bound) for bound in STEP_BOUNDS_S), "+Inf")

WAITING = Gauge("bark_waiting_sequences", "Sequences that wait for a slot.", _OF_STAGE)
RUNNING = Gauge("bark_running_sequences", "Sequences that run.", _OF_STAGE)
SLOTS = Gauge("bark_slots", "Sequences that can run at once.", {"stage": STAGES[:2]})
HEARTBEAT_AGE = Gauge(
    "bark_heartbeat_age_seconds", "Seconds since the engine last showed life.", _OF_STAGE
)
STEPS = Counter("bark_steps", "Steps of the engine.", _OF_STEP)
# A histogram in the form of counters, for there is one observation a step, and Ray's agent would
# pay for each; `histogram_quantile` does not mind the name.
STEP_BUCKETS = Counter(
    "bark_step_seconds_bucket", "Steps that took at most `le`.", {**_OF_STEP, "le": STEP_BOUNDS}
)
STEP_SECONDS = Counter("bark_step_seconds_sum", "Seconds that steps took.", _OF_STEP)
BATCHED_ROWS = Counter("bark_batched_rows", "Sum of the decode steps' batch sizes.", _OF_STAGE)
DEVICE_SECONDS = Counter("bark_device_seconds", "Seconds that the device worked.", _OF_STAGE)
TOKENS = Counter("bark_tokens", "Tokens drawn; frames, of fine and codec.", _OF_STAGE)
PREFILLED = Counter("bark_prefilled_positions", "Positions computed by prefills.", _OF_STAGE)
REUSED = Counter("bark_reused_positions", "Positions found in the KV cache.", _OF_STAGE)
SEQUENCES = Counter(
    "bark_sequences",
    "Sequences that ended, and how: finished, cancelled, late or failed.",
    {**_OF_STAGE, "outcome": OUTCOMES},
)

# ── requests: told by the ingress ────────────────────────────────────────────────────────────────
_BY_WAY: Final = {"way": WAYS}


def codes() -> tuple[str, ...]:
    """Return `ok`, and the codes of all errors that are known by now."""
    found, left = ["ok"], [BarkError]
    while left:
        kind = left.pop()
        found.append(kind.code)
        left += kind.__subclasses__()
    return tuple(dict.fromkeys(found))


def code_of(error: BaseException | None) -> str:
    """Return how something ended: `ok`, or its error's code. What we did not foresee is ours."""
    if error is None:
        return "ok"
    if not isinstance(error, Exception):
        return "cancelled"  # CancelledError, GeneratorExit: nobody waits any longer
    cause: BaseException | None = error
    while cause is not None:  # starlette wraps what comes after the first byte
        if isinstance(cause, BarkError):
            return cause.code
        cause = cause.__cause__
    return "engine_failed"


REQUESTS = Counter(
    "bark_http_requests", "HTTP requests answered, by route and code.", {"route": (), "code": ()}
)
GENERATIONS = Counter(
    "bark_generations",
    "Generations that ended, by way in (http, handle, job) and code.",
    {**_BY_WAY, "code": codes()},
)
GENERATION_SECONDS = Histogram(
    "bark_generation_seconds", "From request to last segment, of what succeeded.", _BY_WAY, _WAITS_S
)
FIRST_AUDIO_SECONDS = Histogram(
    "bark_first_audio_seconds", "From request to first segment.", _BY_WAY, _WAITS_S
)
REAL_TIME_FACTOR = Histogram(
    "bark_real_time_factor",
    "Seconds to make a second of sound, waiting included; of what succeeded.",
    _BY_WAY,
    _FACTORS,
)
AUDIO_SECONDS = Counter("bark_audio_seconds", "Seconds of sound made.", _BY_WAY)
QUEUE_SECONDS = Histogram(
    "bark_queue_seconds",
    "Waiting: at the front, once a request; before each stage, once a segment.",
    {"stage": ("front", *STAGES)},
    _WAITS_S,
)
RETRIES = Counter(
    "bark_retries",
    "Calls of a stage that were made again, and why.",
    {**_OF_STAGE, "reason": ("replica_died", "model_changed")},
)
QUEUED_REQUESTS = Gauge("bark_queued_requests", "Requests that wait at the front.")
ADMITTED_REQUESTS = Gauge("bark_admitted_requests", "Requests that were let in and run.")
QUEUED_JOBS = Gauge("bark_queued_jobs", "Jobs in the store with something left to do.")
RUNNING_JOBS = Gauge("bark_running_jobs", "Jobs in hand.")
JOBS = Counter(
    "bark_jobs",
    "Times that a job was worked on, and how that ended; lost: cancelled, or another's by now.",
    {"outcome": ("succeeded", "failed", "put_back", "lost")},
)

# ── the store, and what spares work: told by the ingress ─────────────────────────────────────────
_STORE_CALLS: Final = {
    "operation": (
        *("get", "get_versioned", "size", "read", "put_if_absent", "put", "replace"),
        *("delete", "list"),
    )
}
STORE_SECONDS = Histogram("bark_store_seconds", "Calls of the store.", _STORE_CALLS, _STORE_S)
STORE_ERRORS = Counter(
    "bark_store_errors", "Calls that the store did not answer, or refused.", _STORE_CALLS
)
CACHE_LOOKUPS = Counter(
    "bark_cache_lookups",
    "Looks for what was asked for, made or read before, and what came of them.",
    {"cache": ("job", "generation", "voice"), "result": ("hit", "miss")},
)

OF_A_STAGE: Final[tuple[Metric, ...]] = (
    *(WAITING, RUNNING, SLOTS, HEARTBEAT_AGE, STEPS, STEP_BUCKETS, STEP_SECONDS, BATCHED_ROWS),
    *(DEVICE_SECONDS, TOKENS, PREFILLED, REUSED, SEQUENCES),
)
OF_THE_INGRESS: Final[tuple[Metric, ...]] = (
    *(REQUESTS, GENERATIONS, GENERATION_SECONDS, FIRST_AUDIO_SECONDS, REAL_TIME_FACTOR),
    *(AUDIO_SECONDS, QUEUE_SECONDS, RETRIES, QUEUED_REQUESTS, ADMITTED_REQUESTS, QUEUED_JOBS),
    *(RUNNING_JOBS, JOBS, STORE_SECONDS, STORE_ERRORS, CACHE_LOOKUPS),
)


def exported_names(metric: Metric) -> tuple[str, ...]:
    """Return the names that Prometheus sees."""
    name = f"ray_{metric.name}"
    if isinstance(metric, Counter):
        return (f"{name}_total",)
    if isinstance(metric, Histogram):
        return tuple(f"{name}_{part}" for part in ("bucket", "sum", "count"))
    return (name,)
