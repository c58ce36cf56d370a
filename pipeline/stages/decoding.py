"""What the stages share: how a request's draws are named, timed and followed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from pipeline.engine.sequence import Sequence
from pipeline.engine.uniforms import DrawKey
from pipeline.payloads import StageReport


class StageNumber(IntEnum):
    """A stage's place in the key of its random numbers: never renumber."""

    SEMANTIC = 0
    COARSE = 1
    FINE = 2


@dataclass(frozen=True, slots=True)
class Call:
    """One segment's call of a stage.

    deadline_s: on the clock of `time.monotonic`.
    on_progress: told (done, total) in the stage's own units, from the engine's thread.
    is_low: it may wait for all others.
    """

    seed: int
    segment: int = 0
    deadline_s: float | None = None
    on_progress: Callable[[int, int], None] | None = None
    is_low: bool = False

    def key(self, stage: StageNumber) -> DrawKey:
        return DrawKey(self.seed, self.segment, int(stage))

    def on_token(self, total: int) -> Callable[[int], None] | None:
        report = self.on_progress
        return None if report is None else lambda done: report(done, total)


def unix_s(monotonic_s: float) -> float:
    """Return a moment of `time.monotonic` on the clock of the day."""
    return time.time() - (time.monotonic() - monotonic_s)


def report(stage: str, sequence: Sequence) -> StageReport:
    """Sum up what a finished sequence cost."""
    stats = sequence.stats
    return StageReport(
        stage=stage,
        queue_s=stats.queue_s,
        device_s=stats.device_s,
        began_unix_s=unix_s(sequence.submitted_s),
        prefill_s=stats.prefill_s,
        decode_s=stats.decode_s,
        tokens=len(sequence.tokens),
        steps=stats.steps,
        mean_batch=stats.mean_batch,
        prefilled_positions=stats.prefilled_positions,
        reused_positions=stats.reused_positions,
    )
