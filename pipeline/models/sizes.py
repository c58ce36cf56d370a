"""The sizes in which a checkpoint can be made: the published two, and one for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pipeline.spec import BarkSpec, CodecSpec, GPTShape

Size = Literal["tiny", "bark-small", "bark"]


def seeded_spec(size: Size) -> BarkSpec:
    """Return the numbers of a size, with the published vocabularies and windows."""
    given = BarkSpec()
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
