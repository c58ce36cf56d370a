"""What the queues of an ingress replica are at, and what its memory spared."""

from __future__ import annotations

from deployments import metrics
from deployments.job_runner import JobRunner
from deployments.meters import Sums
from deployments.service import Service


class FrontMeter:
    """Tells how long the queues of one ingress replica are. Not thread-safe."""

    def __init__(self, service: Service, jobs: JobRunner) -> None:
        self._service, self._jobs = service, jobs
        self._sums = Sums()

    def report(self) -> None:
        voices = self._service.voices
        for result, count in (("hit", voices.num_hits), ("miss", voices.num_misses)):
            series = (("cache", "voice"), ("result", result))
            self._sums.tell({(metrics.CACHE_LOOKUPS, series): count})
        metrics.QUEUED_REQUESTS.set(self._service.admission.num_waiting)
        metrics.ADMITTED_REQUESTS.set(self._service.admission.num_running)
        metrics.QUEUED_JOBS.set(self._jobs.num_waiting)
        metrics.RUNNING_JOBS.set(self._jobs.num_running)
