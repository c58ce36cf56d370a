"""LocalStages: every stage in this process, each engine on its own thread, one device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.engine.fine_runner import FineRunner
from pipeline.engine.runner import CausalRunner, Device
from pipeline.models.checkpoint import Checkpoint
from pipeline.models.encodec import torch_threads
from pipeline.payloads import (
    CoarseCodes,
    FineCodes,
    HistoryPrompt,
    SemanticTokens,
    StageReport,
    TextTokens,
    Waveform,
)
from pipeline.request import CoarseSettings, FineSettings, SemanticSettings
from pipeline.spec import Precision
from pipeline.stages.decoding import Call
from pipeline.stages.text import TextStage
from pipeline.telemetry import traced
from pipeline.workers import Placement, Worker, open_coarse, open_codec, open_fine, open_semantic


class LocalStages:
    """The four stages over one checkpoint; fulfils `synthesis.Stages`.

    Memory is bounded and known at start: weights, and `cache_bytes` of KV cache.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: Device,
        precision: Precision,
        num_slots: int,
        num_coarse_slots: int | None = None,
        tokenizer: Path | None = None,
    ) -> None:
        """Load all four; `num_coarse_slots` is `num_slots` where it is not given."""
        self.spec = checkpoint.spec
        self._own_tokenizer = checkpoint.tokenizer_path
        self._tokenizer = tokenizer or checkpoint.tokenizer_path
        self._text: TextStage | None = None
        place = Placement(device, precision, num_slots)
        self.device_class = place.device_class
        coarse_place = replace(place, num_slots=num_coarse_slots or num_slots)
        # Every thread that ran one of torch's parallel loops keeps helpers. Once those of all are
        # more than the cores, libgomp lets them sleep between two loops, and waking one takes
        # longer than many a loop of the codec. So the codec's thread alone has any.
        with torch_threads(1 if device.backend == "native" else None):
            self._semantic = open_semantic(checkpoint, place)
            self._coarse = open_coarse(checkpoint, coarse_place)
            self._fine = open_fine(checkpoint, place)
            self._codec = open_codec(checkpoint, place)
        self.semantic_runner: CausalRunner = self._semantic.runner
        self.coarse_runner: CausalRunner = self._coarse.runner
        self.fine_runner: FineRunner = self._fine.runner
        self.cache_bytes = self.semantic_runner.cache_bytes + self.coarse_runner.cache_bytes

    def _text_stage(self) -> TextStage:
        # made at first use: a model without a vocabulary still turns tokens into sound
        if self._text is None:
            if self._tokenizer is None:
                from pipeline.models.hub_model import fetch_vocabulary

                self._tokenizer = fetch_vocabulary()
            self._text = TextStage(self._tokenizer, self.spec.semantic)
        return self._text

    @property
    def foreign_vocabulary(self) -> Path | None:
        """The vocabulary in use, where it is not one of the checkpoint's own files."""
        self._text_stage()
        return None if self._tokenizer == self._own_tokenizer else self._tokenizer

    def count_tokens(self, text: str) -> int:
        """Count a text's word pieces."""
        return self._text_stage().num_tokens(text)

    def text(self, text: str) -> TextTokens:
        """Turn one segment's text into word pieces."""
        return self._text_stage()(text)

    async def semantic(
        self,
        text: TextTokens,
        history: HistoryPrompt | None,
        settings: SemanticSettings,
        call: Call,
    ) -> tuple[SemanticTokens, StageReport]:
        """See `SemanticStage`."""
        return await traced("semantic", None, self._semantic.stage(text, history, settings, call))

    async def coarse(
        self,
        semantic: SemanticTokens,
        history: HistoryPrompt | None,
        settings: CoarseSettings,
        call: Call,
    ) -> tuple[CoarseCodes, StageReport]:
        """See `CoarseStage`."""
        return await traced("coarse", None, self._coarse.stage(semantic, history, settings, call))

    async def fine(
        self,
        coarse: CoarseCodes,
        history: HistoryPrompt | None,
        settings: FineSettings,
        call: Call,
    ) -> tuple[FineCodes, StageReport]:
        """See `FineStage`."""
        return await traced("fine", None, self._fine.stage(coarse, history, settings, call))

    async def codec(self, fine: FineCodes, call: Call) -> tuple[Waveform, StageReport]:
        """See `CodecStage`."""
        return await traced("codec", None, self._codec.stage(fine, call))

    @property
    def num_running(self) -> int:
        """Sequences that hold a slot in either engine."""
        return self._semantic.engine.num_running + self._coarse.engine.num_running

    @property
    def heartbeat_age_s(self) -> float:
        """Seconds since the slowest of the four threads last showed life."""
        return max(worker.engine.thread.heartbeat_age_s for worker in self._workers)

    @property
    def has_failed(self) -> bool:
        """Say whether an engine can not go on."""
        return any(worker.engine.thread.failure is not None for worker in self._workers)

    def close(self) -> None:
        """Stop the four threads; requests in flight get EngineFailed."""
        for worker in self._workers:
            worker.close()

    @property
    def _workers(self) -> tuple[Worker[Any], ...]:
        return self._semantic, self._coarse, self._fine, self._codec
