"""CoarseCodes → FineCodes: the other six codebooks, in windows of 1024 frames.

Source: bark/generation.py `generate_fine` (suno-ai/bark f4f32d4).
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.fine_runner import FinePass, FineRunner
from pipeline.engine.turn_taker import AsyncTurnTaker, Job
from pipeline.errors import InvalidRequest
from pipeline.payloads import CoarseCodes, FineCodes, HistoryPrompt, StageReport
from pipeline.request import FineSettings
from pipeline.spec import BarkSpec
from pipeline.stages.decoding import Call, StageNumber, unix_s

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


class FineStage:
    """The third transformer: it sees a whole window at once and fills one codebook a pass."""

    def __init__(self, runner: FineRunner, turns: AsyncTurnTaker, spec: BarkSpec) -> None:
        self._runner, self._turns, self._spec = runner, turns, spec

    async def __call__(
        self,
        coarse: CoarseCodes,
        history: HistoryPrompt | None,
        settings: FineSettings,
        call: Call,
    ) -> tuple[FineCodes, StageReport]:
        """Fill codebooks K…7; the K given ones come back unchanged.

        Raises:
            InvalidRequest: K is not 1…7, or there are no frames.
            DeadlineExceeded, Cancelled, EngineFailed.
        """
        given, frames = coarse.codes.shape
        if not (self._spec.fine.num_given <= given < self._spec.fine.num_codebooks and frames):
            raise InvalidRequest(
                f"coarse codes must be [{self._spec.fine.num_given}…"
                f"{self._spec.fine.num_codebooks - 1}, F > 0], not {list(coarse.codes.shape)}"
            )
        submitted = time.monotonic()
        job = Job(
            self._passes(coarse, history, settings, call),
            deadline_s=call.deadline_s,
            size=frames,
            is_low=call.is_low,
        )
        codes: FineCodes = await self._turns.run(job)
        return codes, StageReport(
            "fine",
            queue_s=time.monotonic() - submitted - job.device_s,
            device_s=job.device_s,
            began_unix_s=unix_s(submitted),
            tokens=frames,
        )

    def _passes(
        self,
        coarse: CoarseCodes,
        history: HistoryPrompt | None,
        settings: FineSettings,
        call: Call,
    ) -> Generator[FinePass, Float32, FineCodes]:
        """Yield every pass of the network, take its logits, return the codes."""
        fine, pad = self._spec.fine, self._spec.fine_pad_id
        given, frames = coarse.codes.shape
        past = np.empty((fine.num_codebooks, 0), np.int64)
        if history is not None:
            past = history.fine[:, -fine.history :].astype(np.int64)
        new = np.full((fine.num_codebooks, frames), pad, np.int64)
        new[:given] = coarse.codes
        codes = np.concatenate([past, new], axis=1)  # [8, H + F]
        padding = max(0, fine.window - codes.shape[1])
        codes = np.pad(codes, ((0, 0), (0, padding)), constant_values=pad)  # [8, L]
        starts = window_starts(frames, past.shape[1], codes.shape[1], self._spec)
        key, done = call.key(StageNumber.FINE), 0
        total = len(starts) * (fine.num_codebooks - given)
        for window, (start, fill) in enumerate(starts):
            view = codes[:, start : start + fine.window]
            # the sum of the known codebooks' embeddings; a pass adds one table to it
            known = sum(
                (self._runner.embed(k, view[k]) for k in range(1, given)),
                self._runner.embed(0, view[0]),
            )
            for codebook in range(given, fine.num_codebooks):
                logits = yield FinePass(known, view[codebook].copy(), codebook, fill - start)
                block = window * fine.num_codebooks + codebook
                uniforms = key.uniforms(fine.window, block)[fill - start :]
                view[codebook, fill - start :] = self._runner.draw_rows(
                    logits, settings.temperature, uniforms
                )
                known = known + self._runner.embed(codebook, view[codebook])
                done += 1
                if call.on_progress is not None:
                    call.on_progress(done, total)
                del logits  # 4 MB a request that waits for its next turn
        first = past.shape[1]
        return FineCodes(codes[:, first : first + frames].astype(np.int32))


def window_starts(frames: int, past: int, length: int, spec: BarkSpec) -> list[tuple[int, int]]:
    """Return (start, fill) of every window: where it begins, and its first frame to predict.

    frames: new frames; past: history frames before them; length: of all, padded to a window.
    """
    window, hop = spec.fine.window, spec.fine.history
    count = max(0, math.ceil((frames - (window - past)) / hop)) + 1
    return [
        (min(v * hop, length - window), min(past + v * hop, length - hop)) for v in range(count)
    ]
