"""What one stage hands to the next: numpy arrays whose shape, dtype and range were checked once.

Inside the pipeline code trusts these classes. They know no torch, no files and no Bark rules
beyond the sizes in a `BarkSpec`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InvalidVoice
from pipeline.spec import BarkSpec

Int64 = NDArray[np.int64]
Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]


# ── text ▸ semantic ──────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class TextTokens:
    """A segment's word pieces, offset into the semantic vocabulary.

    ids: int64 [prompt_length], padded on the right.
    num_tokens: word pieces kept; num_dropped: pieces beyond the prompt's length, cut off.
    unknown_words: words that the vocabulary can not spell. text: what was cut, as it was given.
    """

    ids: Int64
    num_tokens: int
    num_dropped: int = 0
    unknown_words: tuple[str, ...] = ()
    text: str = ""


# ── the history prompt: given to all three ───────────────────────────────────────────────────────
# Below this some lengths of a model's own generations miss the ratio by rounding.
SHORTEST_SURE = 10


@dataclass(frozen=True, slots=True, eq=False)
class HistoryPrompt:
    """The three arrays that condition the stages; a generation is itself a valid one.

    semantic: int64 [n]; coarse: int32 [2, m]; fine: int32 [8, m]; m = floor(n * 75 / 49.9).
    """

    semantic: Int64
    coarse: Int32
    fine: Int32

    def checked(self, spec: BarkSpec) -> HistoryPrompt:
        """Return itself if this model can use it.

        Raises:
            InvalidVoice: names the array, what is wrong with it and what was expected.
        """
        check_semantic(self.semantic, spec)
        check_codes(self.coarse, "coarse_prompt", spec.coarse.num_codebooks, spec)
        check_codes(self.fine, "fine_prompt", spec.fine.num_codebooks, spec)
        want = round(spec.coarse_per_semantic / spec.coarse.num_codebooks, 1)
        ratio = self.coarse.shape[1] / len(self.semantic)
        if round(ratio, 1) != want:
            raise InvalidVoice(
                f"coarse_prompt has {self.coarse.shape[1]} frames for {len(self.semantic)} "
                f"semantic tokens: a ratio of {ratio:.2f}, where this model needs {want}"
                + (" (too short to be a voice)" if len(self.semantic) < SHORTEST_SURE else "")
            )
        return self

    def as_mapping(self) -> dict[str, NDArray[np.generic]]:
        """Return the three arrays under the names that Suno's .npz files use."""
        return {
            "semantic_prompt": self.semantic,
            "coarse_prompt": self.coarse,
            "fine_prompt": self.fine,
        }


def check_semantic(ids: NDArray[np.generic], spec: BarkSpec) -> None:
    """Check a history prompt's semantic ids; see `HistoryPrompt.checked`."""
    if ids.ndim != 1 or not len(ids):
        raise InvalidVoice(f"semantic_prompt must be [n] with n > 0, not {list(ids.shape)}")
    check_range(ids, "semantic_prompt", spec.semantic.vocab_size)


def check_codes(codes: NDArray[np.generic], name: str, rows: int, spec: BarkSpec) -> None:
    """Check a history prompt's codes; see `HistoryPrompt.checked`."""
    if codes.ndim != 2 or codes.shape[0] != rows or not codes.shape[1]:
        raise InvalidVoice(f"{name} must be [{rows}, m] with m > 0, not {list(codes.shape)}")
    check_range(codes, name, spec.codebook_size)


def check_range(values: NDArray[np.generic], name: str, stop: int) -> None:
    """Check that all values lie in [0, stop)."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= stop:
        raise InvalidVoice(f"{name} holds {low}…{high}; this model knows 0…{stop - 1}")


# ── semantic ▸ coarse ▸ fine ▸ codec ─────────────────────────────────────────────────────────────
# model_digest: whose tokens these are, where several processes make them; None within one.
@dataclass(frozen=True, slots=True, eq=False)
class SemanticTokens:
    """ids: int64 [n], each 0…9999, 49.9 a second; n may be 0.

    finish_reason: `stop` (the model ended it) or `length` (a limit did).
    """

    ids: Int64
    finish_reason: str = "stop"
    model_digest: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class CoarseCodes:
    """codes: int32 [2, F], each 0…1023, 75 frames a second."""

    codes: Int32
    model_digest: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class FineCodes:
    """codes: int32 [8, F], each 0…1023, 75 frames a second."""

    codes: Int32
    model_digest: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Waveform:
    """samples: float32 [N], mono, nominally [-1, 1] and not clipped; N = 320 F."""

    samples: Float32
    sample_rate: int

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.sample_rate


# ── beside every result ──────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class StageReport:
    """What one stage spent on one segment. `device_s` is this request's share of its batches.

    began_unix_s: when it was asked, by the clock of the machine it ran on.
    """

    stage: str
    queue_s: float
    device_s: float
    began_unix_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    tokens: int = 0
    steps: int = 0
    mean_batch: float = 1.0
    prefilled_positions: int = 0
    reused_positions: int = 0

    @property
    def parts(self) -> tuple[tuple[str, float], ...]:
        """Return where the time went, in order: names and seconds."""
        if self.prefill_s or self.decode_s:
            return (
                ("queue", self.queue_s),
                ("prefill", self.prefill_s),
                ("decode", self.decode_s),
            )
        return (("queue", self.queue_s), ("decode", self.device_s))
