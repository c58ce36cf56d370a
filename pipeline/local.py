"""LocalStages: every stage in this process, each engine on its own thread, one device."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from pipeline.engine.async_engine import AsyncEngine, AsyncTurnTaker
from pipeline.engine.engine import Engine
from pipeline.engine.runner import CausalRunner, Device, FineRunner
from pipeline.models.checkpoint import Checkpoint
from pipeline.models.encodec import CodecDecoder
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
from pipeline.stages.coarse import CoarseStage
from pipeline.stages.codec import CodecStage
from pipeline.stages.decoding import Call
from pipeline.stages.fine import FineStage
from pipeline.stages.semantic import SemanticStage
from pipeline.stages.text import TextStage

# With the native kernels torch only runs the codec; measured on 2 cores, a 10 s clip takes 0.62 s
# with one thread and 0.35 s with two. Fixed, so that bytes do not depend on a machine's cores.
CODEC_THREADS = 2


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
        tokenizer: Path | None = None,
    ) -> None:
        self.spec = spec = checkpoint.spec
        self._own_tokenizer = checkpoint.tokenizer_path
        self._tokenizer = tokenizer or checkpoint.tokenizer_path
        self._text: TextStage | None = None
        self.semantic_runner = CausalRunner(
            partial(checkpoint.tensor, "semantic"),
            spec.semantic.gpt,
            device=device,
            precision=precision,
            num_slots=num_slots,
            max_positions=spec.semantic.gpt.block_size,
            head_range=(0, spec.semantic.eos_id + 1),
        )
        self.coarse_runner = CausalRunner(
            partial(checkpoint.tensor, "coarse"),
            spec.coarse.gpt,
            device=device,
            precision=precision,
            num_slots=num_slots,
            max_positions=spec.coarse.gpt.block_size,
            head_range=(
                spec.codebook_range(0)[0],
                spec.codebook_range(spec.coarse.num_codebooks - 1)[1],
            ),
        )
        self.fine_runner = FineRunner(
            partial(checkpoint.tensor, "fine"),
            spec.fine.gpt,
            device=device,
            precision=precision,
            num_codebooks=spec.fine.num_codebooks,
            num_given=spec.fine.num_given,
            codebook_size=spec.codebook_size,
            window=spec.fine.window,
        )
        decoder = CodecDecoder(
            partial(checkpoint.tensor, "codec"),
            # of EnCodec's 32 codebooks Bark fills 8
            replace(spec.codec, num_codebooks=spec.fine.num_codebooks),
            device.torch,
            CODEC_THREADS if device.backend == "native" else None,
        )
        # what must agree for two processes to give equal bytes
        self.device_class = device.device_class
        if device.backend == "torch":
            self.device_class += f"-slots{num_slots}"
        self.cache_bytes = self.semantic_runner.cache_bytes + self.coarse_runner.cache_bytes
        self._semantic_engine = AsyncEngine(Engine(self.semantic_runner), name="semantic")
        self._coarse_engine = AsyncEngine(Engine(self.coarse_runner), name="coarse")
        self._fine_turns = AsyncTurnTaker(name="fine")
        self._codec_turns = AsyncTurnTaker(name="codec")
        self._semantic = SemanticStage(self._semantic_engine, spec.semantic)
        self._coarse = CoarseStage(self._coarse_engine, spec)
        self._fine = FineStage(self.fine_runner, self._fine_turns, spec)
        self._codec = CodecStage(decoder, self._codec_turns, device)

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
        return await self._semantic(text, history, settings, call)

    async def coarse(
        self,
        semantic: SemanticTokens,
        history: HistoryPrompt | None,
        settings: CoarseSettings,
        call: Call,
    ) -> tuple[CoarseCodes, StageReport]:
        """See `CoarseStage`."""
        return await self._coarse(semantic, history, settings, call)

    async def fine(
        self,
        coarse: CoarseCodes,
        history: HistoryPrompt | None,
        settings: FineSettings,
        call: Call,
    ) -> tuple[FineCodes, StageReport]:
        """See `FineStage`."""
        return await self._fine(coarse, history, settings, call)

    async def codec(self, fine: FineCodes, call: Call) -> tuple[Waveform, StageReport]:
        """See `CodecStage`."""
        return await self._codec(fine, call)

    @property
    def num_running(self) -> int:
        """Sequences that hold a slot in either engine."""
        return self._semantic_engine.num_running + self._coarse_engine.num_running

    @property
    def heartbeat_age_s(self) -> float:
        """Seconds since the slowest of the four threads last showed life."""
        return max(
            worker.thread.heartbeat_age_s
            for worker in (
                self._semantic_engine,
                self._coarse_engine,
                self._fine_turns,
                self._codec_turns,
            )
        )

    def close(self) -> None:
        """Stop the four threads; requests in flight get EngineFailed."""
        self._semantic_engine.close()
        self._coarse_engine.close()
        self._fine_turns.close()
        self._codec_turns.close()
