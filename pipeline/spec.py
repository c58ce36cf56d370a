"""Bark's numbers: vocabularies, token ids, rates, windows and network shapes.

Every number of a model comes from its checkpoint (`models/checkpoint.py` fills these classes);
the defaults are Suno's published models, suno-ai/bark f4f32d4. Nothing else in the package may
name one of these numbers. Knows no torch and no files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import prod
from typing import Literal

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")

# Bumped whenever any rounding in the engine changes, or where texts part: it is part of every id.
NUMERICS_VERSION = 4


@dataclass(frozen=True, slots=True)
class GPTShape:
    """One transformer's shape. `n_layer` and kin keep upstream's names in checkpoints only."""

    num_layers: int = 12
    num_heads: int = 12
    width: int = 768
    block_size: int = 1024
    input_vocab: int = 10_048
    output_vocab: int = 10_048
    has_bias: bool = False

    @property
    def head_dim(self) -> int:
        return self.width // self.num_heads


@dataclass(frozen=True, slots=True)
class SemanticSpec:
    """Text → semantic tokens (generation.py, `generate_text_semantic`)."""

    vocab_size: int = 10_000
    eos_id: int = 10_000
    pad_id: int = 10_000  # the same id as EOS: it pads the history prompt, and ends a sequence
    text_offset: int = 10_048
    text_pad_id: int = 129_595
    infer_id: int = 129_599
    prompt_length: int = 256  # text slots; as many for the history prompt, summed onto them
    max_new_tokens: int = 768
    rate_hz: float = 49.9
    gpt: GPTShape = field(default=GPTShape(input_vocab=129_600, output_vocab=10_048))


@dataclass(frozen=True, slots=True)
class CoarseSpec:
    """Semantic tokens → the first codebooks (generation.py, `generate_coarse`)."""

    semantic_pad_id: int = 12_048
    infer_id: int = 12_050
    semantic_length: int = 256
    max_history: int = 630
    window: int = 60
    num_codebooks: int = 2
    gpt: GPTShape = field(default=GPTShape(input_vocab=12_096, output_vocab=12_096))


@dataclass(frozen=True, slots=True)
class FineSpec:
    """The first codebooks → all of them (generation.py, `generate_fine`)."""

    window: int = 1024
    history: int = 512
    num_codebooks: int = 8
    num_given: int = 1  # codebooks that have no head
    gpt: GPTShape = field(default=GPTShape(input_vocab=1056, output_vocab=1056))


@dataclass(frozen=True, slots=True)
class CodecSpec:
    """The EnCodec decoder's shape (encodec 24 kHz, as transformers' EncodecConfig names it)."""

    sample_rate: int = 24_000
    num_filters: int = 32
    latent_dim: int = 128
    codebook_dim: int = 128
    num_codebooks: int = 32
    upsampling_ratios: tuple[int, ...] = (8, 5, 4, 2)
    kernel_size: int = 7
    last_kernel_size: int = 7
    residual_kernel_size: int = 3
    num_residual_layers: int = 1
    dilation_growth_rate: int = 2
    compress: int = 2
    num_lstm_layers: int = 2
    use_conv_shortcut: bool = True

    @property
    def hop(self) -> int:
        """Samples a frame."""
        return prod(self.upsampling_ratios)

    @property
    def frame_rate_hz(self) -> float:
        return self.sample_rate / self.hop


@dataclass(frozen=True, slots=True)
class BarkSpec:
    """A whole model's numbers, with the few that follow from two stages at once."""

    semantic: SemanticSpec = SemanticSpec()
    coarse: CoarseSpec = CoarseSpec()
    fine: FineSpec = FineSpec()
    codec: CodecSpec = CodecSpec()
    codebook_size: int = 1024
    sample_rate: int = 24_000

    @property
    def fine_pad_id(self) -> int:
        """The code that means "not known yet" to the fine model."""
        return self.codebook_size

    @property
    def coarse_per_semantic(self) -> float:
        """Flattened coarse tokens a semantic token: 75 / 49.9 * 2 for Suno's models, not 3."""
        return self.codec.frame_rate_hz / self.semantic.rate_hz * self.coarse.num_codebooks

    @property
    def max_semantic_history(self) -> int:
        """Semantic tokens of past context in a coarse window (209)."""
        return int(self.coarse.max_history // self.coarse_per_semantic)

    def codebook_range(self, codebook: int) -> tuple[int, int]:
        """Token ids [start, stop) of a codebook in the coarse vocabulary."""
        start = self.semantic.vocab_size + codebook * self.codebook_size
        return start, start + self.codebook_size

    def num_frames(self, num_semantic: int) -> int:
        """Codec frames that a run of semantic tokens becomes (floor, exact: generate_coarse)."""
        rate = Fraction(str(self.semantic.rate_hz))
        return int(num_semantic * Fraction(self.codec.frame_rate_hz) / rate)
