"""What every replica of a stage does: load, warm up, work, tell its health and its load."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import ray
from ray import serve

from deployments import metrics
from deployments.config import AppConfig
from deployments.logs import set_up_logs
from deployments.meters import EngineMeter, Reporter
from deployments.ray_metrics import set_up_metrics
from deployments.tracing import set_up_tracing
from deployments.wire import Wire
from pipeline.engine.precedence import Precedence
from pipeline.engine.runner import Device
from pipeline.errors import ModelChanged
from pipeline.models.checkpoint import open_checkpoint
from pipeline.models.encodec import torch_threads
from pipeline.models.locate import locate
from pipeline.payloads import HistoryPrompt
from pipeline.store import open_store
from pipeline.voice_sources import voice_library
from pipeline.voices import read_voice
from pipeline.workers import Placement, Worker


def this_replica() -> tuple[str, str]:
    """Return the names of the deployment and of the replica that this process is."""
    context = serve.get_replica_context()
    return context.deployment, context.replica_id.unique_id


class StageReplica(ABC):
    """One stage on one device. Methods are called by Serve, many at once, on one event loop."""

    slots: ClassVar[str | None] = None  # the setting that says how many, where there are any

    def __init__(self, config: AppConfig) -> None:
        set_up_logs(config.logs, *this_replica())
        set_up_tracing(*this_replica())
        stage = this_replica()[0].removesuffix("Stage").lower()
        set_up_metrics(metrics.OF_A_STAGE, stage=stage)
        model = config.model
        self._stuck_after_s = config.engine.stuck_after_s
        self.checkpoint = open_checkpoint(locate(model.name, revision=model.revision))
        self.spec = self.checkpoint.spec
        self.model_digest = self.checkpoint.digest
        presets = open_store(config.store.voices_location)
        self._voices = voice_library(model.name, self.checkpoint, config.voices.folders, presets)
        slots = 8 if self.slots is None else int(getattr(config.engine, self.slots))
        device = Device(model.device, model.backend)
        place = Placement(device, model.precision, slots, precedence=Precedence(_name_of(device)))
        self.device_class = place.device_class
        # as in `pipeline.local`: the codec's thread alone has helpers
        with torch_threads(1 if device.backend == "native" else None):
            self.worker = self.open(place)
        self.num_calls = 0
        has_slots = None if self.slots is None else slots
        self._reporter = Reporter(EngineMeter(stage, self.worker.engine, has_slots).report)

    @abstractmethod
    def open(self, place: Placement) -> Worker[Any]:
        """Load the network."""

    # ── for Serve ────────────────────────────────────────────────────────────────────────────────
    def check_health(self) -> None:
        """Raise when the engine has failed or hangs: the replica is replaced.

        Raises:
            RuntimeError: says what is wrong.
        """
        thread = self.worker.engine.thread
        if thread.failure is not None:
            raise RuntimeError(f"engine_failed: {thread.failure.message}")
        if thread.heartbeat_age_s > self._stuck_after_s:
            raise RuntimeError(
                f"engine_failed: no sign of life from the engine for {thread.heartbeat_age_s:.0f} s"
            )

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the load, for autoscaling policies."""
        engine = self.worker.engine
        return {
            "waiting": float(engine.num_waiting),
            "running": float(engine.num_running),
            "backlog_tokens": float(engine.backlog),
        }

    # ── for operators and tests ──────────────────────────────────────────────────────────────────
    async def facts(self) -> Wire:
        """Return what this replica is and has done: its process, node, model, counters."""
        return {
            "pid": os.getpid(),
            "node": ray.get_runtime_context().get_node_id(),
            "model_digest": self.model_digest,
            "device_class": self.device_class,
            "calls": self.num_calls,
            "steps": self.worker.engine.steps,
            "most_wasted_steps": self.worker.engine.most_wasted_steps,
            "busy_s": self.worker.engine.busy_s,
            **self.record_autoscaling_stats(),
        }

    # ── for the stages ───────────────────────────────────────────────────────────────────────────
    def history(self, request: Mapping[str, Any]) -> HistoryPrompt | None:
        """Return the voice of a call, checked.

        Raises:
            VoiceNotFound, InvalidVoice, InvalidRequest.
        """
        voice = request.get("voice")
        if voice is None or voice == "default":
            return None
        return read_voice(voice, spec=self.spec, voices=self._voices, allow_paths=False)

    def check_model(self, request: Mapping[str, Any]) -> None:
        """Refuse tokens of another model.

        Raises:
            ModelChanged: they belong to one that this replica does not have.
        """
        wanted = request.get("model_digest")
        if wanted is not None and wanted != self.model_digest:
            raise ModelChanged(
                f"the tokens belong to model {wanted[:12]}, this replica has "
                f"{self.model_digest[:12]}"
            )

    def result(self, **fields: Any) -> Wire:
        """Return a call's result with what identifies its maker."""
        return {**fields, "model_digest": self.model_digest, "device_class": self.device_class}

    def close(self) -> None:
        self.worker.close()
        self._reporter.close()

    def __del__(self) -> None:
        for part in ("worker", "_reporter"):  # those that it came to have
            if part in self.__dict__:
                self.__dict__[part].close()


def _name_of(device: Device) -> str:
    """Return what processes on one device agree on: all of a node's CPU, or the same GPUs."""
    if device.torch.type == "cpu":
        return "cpu"
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "all").replace(",", "-")
    return re.sub(r"[^A-Za-z0-9-]", "_", f"cuda-{seen}-{device.torch.index or 0}")
