"""The sizes in which a checkpoint can be made: the published two, and two for small machines."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pipeline.spec import BarkSpec, CoarseSpec, CodecSpec, FineSpec, GPTShape, SemanticSpec

Size = Literal["tiny", "nano", "bark-small", "bark"]


def seeded_spec(size: Size) -> BarkSpec:
    """Return the numbers of a size; all but `nano` have the published vocabularies and windows."""
    given = BarkSpec()
    if size == "nano":
        return _nano_spec()
    if size == "tiny":
        layers, heads, width = (2, 2, 3), 4, 32
        codec = CodecSpec(num_filters=4, latent_dim=16, codebook_dim=16, num_codebooks=8)
    else:
        depth, heads, width = (24, 16, 1024) if size == "bark" else (12, 12, 768)
        layers, codec = (depth, depth, depth), CodecSpec()

    def shaped(gpt: GPTShape, num_layers: int) -> GPTShape:
        return replace(gpt, num_layers=num_layers, num_heads=heads, width=width)

    return replace(
        given,
        semantic=replace(given.semantic, gpt=shaped(given.semantic.gpt, layers[0])),
        coarse=replace(given.coarse, gpt=shaped(given.coarse.gpt, layers[1])),
        fine=replace(given.fine, gpt=shaped(given.fine.gpt, layers[2])),
        codec=codec,
    )


def _nano_spec() -> BarkSpec:
    """Small windows and vocabularies, so that a CPU speaks at once; none is Bark's own."""

    def gpt(block_size: int, input_vocab: int, output_vocab: int) -> GPTShape:
        return GPTShape(4, 3, 192, block_size, input_vocab, output_vocab)

    return BarkSpec(
        semantic=SemanticSpec(
            vocab_size=150,
            eos_id=150,
            pad_id=150,
            text_offset=160,
            text_pad_id=1132,
            infer_id=1133,
            prompt_length=64,
            max_new_tokens=256,
            gpt=gpt(384, 1134, 160),
        ),
        coarse=CoarseSpec(
            semantic_pad_id=1174,
            infer_id=1175,
            semantic_length=128,
            max_history=240,
            gpt=gpt(448, 1176, 1176),
        ),
        fine=FineSpec(window=256, history=128, gpt=gpt(256, 520, 520)),
        codec=CodecSpec(num_filters=16, latent_dim=64, codebook_dim=64, num_codebooks=8),
        codebook_size=512,
    )
