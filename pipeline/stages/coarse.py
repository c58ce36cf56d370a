"""SemanticTokens → CoarseCodes: sliding windows, alternating codebooks.

Source: bark/generation.py `generate_coarse` (suno-ai/bark f4f32d4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.async_engine import AsyncEngine
from pipeline.engine.sequence import Prompt, SamplingParams, Sequence
from pipeline.errors import InvalidRequest
from pipeline.payloads import CoarseCodes, HistoryPrompt, SemanticTokens, StageReport
from pipeline.request import CoarseSettings
from pipeline.spec import BarkSpec
from pipeline.stages.decoding import Call, StageNumber, report

Int64 = NDArray[np.int64]


class CoarseStage:
    """The second transformer: semantic tokens become the first two codebooks."""

    def __init__(self, engine: AsyncEngine, spec: BarkSpec) -> None:
        self._engine, self._spec = engine, spec

    async def __call__(
        self,
        semantic: SemanticTokens,
        history: HistoryPrompt | None,
        settings: CoarseSettings,
        call: Call,
    ) -> tuple[CoarseCodes, StageReport]:
        """Generate floor(n * 75 / 49.9) frames of two codes.

        Raises:
            InvalidRequest: no semantic tokens, or a window that the model has no room for.
            Overloaded, DeadlineExceeded, Cancelled, EngineFailed.
        """
        spec = self._spec
        windows = Windows.plan(semantic.ids, history, settings, spec)
        total = windows.num_tokens
        codebooks = spec.coarse.num_codebooks
        sequence = Sequence(
            prompt=windows.prompt([]),
            params=SamplingParams(
                temperature=settings.temperature,
                top_k=settings.top_k,
                top_p=settings.top_p,
                allowed=tuple(spec.codebook_range(k) for k in range(codebooks)),
                max_tokens=total,
            ),
            uniforms=call.key(StageNumber.COARSE).uniforms(total),
            window=windows.window,
            next_prompt=windows.prompt,
            deadline_s=call.deadline_s,
            on_token=call.on_token(total),
            is_low=call.is_low,
        )
        await self._engine.run(sequence)
        frames = np.asarray(sequence.tokens, dtype=np.int32).reshape(-1, codebooks).T  # [2, F]
        starts = np.array([[spec.codebook_range(k)[0]] for k in range(codebooks)], dtype=np.int32)
        return CoarseCodes(np.ascontiguousarray(frames - starts)), report("coarse", sequence)


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """What the coarse model sees in each window.

    semantic: int64 [base + n], the kept history before the new tokens.
    past: int64, flattened coarse history with the codebooks' offsets; may begin with a token of
    the second codebook, as the original's does.
    """

    semantic: Int64
    base: int
    past: Int64
    num_tokens: int
    window: int
    max_history: int
    spec: BarkSpec

    @classmethod
    def plan(
        cls,
        ids: Int64,
        history: HistoryPrompt | None,
        settings: CoarseSettings,
        spec: BarkSpec,
    ) -> Windows:
        """Check the settings and align the history; see `CoarseStage`."""
        if not len(ids):
            raise InvalidRequest("There are no semantic tokens to make sound from.")
        max_history, window = settings.for_model(spec.coarse)
        semantic, past = _align_history(history, max_history, spec)
        return cls(
            semantic=np.concatenate([semantic, ids]),
            base=len(semantic),
            past=past,
            num_tokens=spec.num_frames(len(ids)) * spec.coarse.num_codebooks,
            window=window,
            max_history=max_history,
            spec=spec,
        )

    def prompt(self, tokens: Seq[int]) -> Prompt:
        """Lay out the window that begins after these tokens: semantic slice, infer token, past.

        At most 256 + 1 + 630 positions. The slice looks ahead of the tokens by up to 47.
        """
        spec = self.spec.coarse
        ratio = self.spec.coarse_per_semantic
        now = self.base + round(len(tokens) / ratio)
        first = max(0, now - math.floor(self.max_history / ratio))
        ahead = self.semantic[first:][: spec.semantic_length]
        padding = np.full(spec.semantic_length - len(ahead), spec.semantic_pad_id)
        past = np.concatenate([self.past, np.asarray(tokens, dtype=np.int64)])
        return Prompt(np.concatenate([ahead, padding, [spec.infer_id], past[-self.max_history :]]))


def _align_history(
    history: HistoryPrompt | None, max_history: int, spec: BarkSpec
) -> tuple[Int64, Int64]:
    """Cut a history prompt so that its semantic and coarse parts end together."""
    if history is None:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    ratio = spec.coarse_per_semantic
    offsets = [[spec.codebook_range(k)[0]] for k in range(spec.coarse.num_codebooks)]
    flat = (history.coarse.astype(np.int64) + offsets).T.reshape(-1)  # frame by frame
    num_semantic = len(history.semantic)
    kept = min(
        math.floor(max_history / ratio),
        num_semantic - num_semantic % 2,
        math.floor(len(flat) / ratio),
    )
    kept_flat = round(kept * ratio)
    # NOTE: the last frame goes, to align in time: "dropping one frame" in the original. An odd
    # kept_flat is upstream's too, and the model was used with it: not repaired.
    return history.semantic[-kept:], flat[-kept_flat:][: -spec.coarse.num_codebooks]
