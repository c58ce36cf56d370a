"""TextTokens → SemanticTokens: prompt layout, allowed ids, early end.

Source: bark/generation.py `generate_text_semantic` (suno-ai/bark f4f32d4).
"""

from __future__ import annotations

import numpy as np

from pipeline.engine.async_engine import AsyncEngine
from pipeline.engine.sequence import Prompt, SamplingParams, Sequence
from pipeline.payloads import HistoryPrompt, SemanticTokens, StageReport, TextTokens
from pipeline.request import SemanticSettings
from pipeline.spec import SemanticSpec
from pipeline.stages.decoding import Call, StageNumber, report


class SemanticStage:
    """The first transformer: it reads the text and decides how long the speech will be."""

    def __init__(self, engine: AsyncEngine, spec: SemanticSpec) -> None:
        self._engine, self._spec = engine, spec

    async def __call__(
        self,
        text: TextTokens,
        history: HistoryPrompt | None,
        settings: SemanticSettings,
        call: Call,
    ) -> tuple[SemanticTokens, StageReport]:
        """Generate 0…768 semantic tokens.

        Raises:
            Overloaded, DeadlineExceeded, Cancelled, EngineFailed.
        """
        limit = max_tokens(settings.max_duration_s, self._spec)
        stops = settings.allow_early_stop
        sequence = Sequence(
            prompt=semantic_prompt(text, history, self._spec),
            params=SamplingParams(
                temperature=settings.temperature,
                top_k=settings.top_k,
                top_p=settings.top_p,
                allowed=((0, self._spec.vocab_size),),
                stop_id=self._spec.eos_id if stops else None,
                min_stop_p=settings.min_eos_p if stops else None,
                max_tokens=limit,
            ),
            uniforms=call.key(StageNumber.SEMANTIC).uniforms(limit),
            deadline_s=call.deadline_s,
            on_token=call.on_token(limit),
            is_low=call.is_low,
        )
        await self._engine.run(sequence)
        tokens = SemanticTokens(
            np.asarray(sequence.tokens, dtype=np.int64), sequence.finish_reason or "stop"
        )
        return tokens, report("semantic", sequence)


def semantic_prompt(text: TextTokens, history: HistoryPrompt | None, spec: SemanticSpec) -> Prompt:
    """Lay out the 257 positions: text and history summed slot by slot, then the infer token.

    The history's last 256 tokens stand from slot 0 on, padded on the right.
    """
    past = np.full(spec.prompt_length, spec.pad_id, dtype=np.int64)
    if history is not None:
        kept = history.semantic[-spec.prompt_length :]
        past[: len(kept)] = kept
    return Prompt(tokens=np.append(text.ids, spec.infer_id), added=past)


def max_tokens(max_duration_s: float | None, spec: SemanticSpec) -> int:
    """Count the tokens until the running sum of durations first exceeds the maximum.

    The crossing token is kept (0.5 s → 25, 0 → 1), as in the original's float64 sum.
    """
    if max_duration_s is None:
        return spec.max_new_tokens
    duration, count = 0.0, 0
    while count < spec.max_new_tokens and duration <= max_duration_s:
        duration += 1 / spec.rate_hz
        count += 1
    return count
