"""The process's metrics leave through Ray: the node's agent exports them for Prometheus."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from ray.serve import metrics as serve_metrics

from deployments import metrics
from deployments.metrics import Counter, Gauge, Histogram, Metric


def set_up_metrics(told: Iterable[Metric], **fixed: str) -> None:
    """Send this process's metrics to Ray, counters from zero on: Prometheus sees no first rise.

    Args:
        told: those that this deployment tells. fixed: labels that have one value here.
    """
    sink = RayMetrics()
    metrics.send_to(sink)
    for metric in told:
        if isinstance(metric, Counter):
            for labels in metric.series(**fixed):
                sink.begin(metric, labels)


class RayMetrics:
    """Ray's own object for each metric, made when it is first needed. Thread-safe."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __call__(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        """Record; what `metrics.send_to` takes."""
        target = self._of(metric)
        if isinstance(metric, Counter):
            target.inc(value, dict(labels))
        elif isinstance(metric, Gauge):
            target.set(value, dict(labels))
        else:
            target.observe(value, dict(labels))

    def begin(self, counter: Counter, labels: Mapping[str, str]) -> None:
        """Let a counter's series be there, at zero; `inc` itself refuses to add nothing."""
        self._of(counter)._record(0.0, dict(labels))

    def _of(self, metric: Metric) -> Any:
        with self._lock:
            if metric.name not in self._made:
                self._made[metric.name] = _make(metric)
            return self._made[metric.name]


def _make(metric: Metric) -> Any:
    keys: Any = tuple(metric.labels)  # typed as of one key, in Serve
    if isinstance(metric, Counter):
        return serve_metrics.Counter(metric.name, metric.help, keys)
    if isinstance(metric, Histogram):
        return serve_metrics.Histogram(metric.name, metric.help, list(metric.buckets), keys)
    return serve_metrics.Gauge(metric.name, metric.help, keys)
