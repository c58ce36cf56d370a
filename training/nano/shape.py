"""nano's numbers: small windows and vocabularies, none of them Suno's."""

from __future__ import annotations

from pipeline.spec import BarkSpec, CoarseSpec, CodecSpec, FineSpec, GPTShape, SemanticSpec
from training.nano.phases import NUM_PHASES
from training.nano.pieces import pieces
from training.nano.tokens import (
    CODEBOOK_SIZE,
    NUM_CODEBOOKS,
    SEMANTIC_RATE_HZ,
    THIRDS,
)


def nano_spec(num_symbols: int, num_phases: int = NUM_PHASES) -> BarkSpec:
    """Return the spec of a model whose teacher has this many phonemes.

    num_phases: 1 where phases make no difference, as to the sound of a phoneme.
    """
    semantic, num_pieces = num_symbols * THIRDS * num_phases, len(pieces()[0])
    stop = semantic + 2 * CODEBOOK_SIZE  # of the coarse vocabulary's codes
    return BarkSpec(
        semantic=SemanticSpec(
            vocab_size=semantic,
            eos_id=semantic,
            pad_id=semantic,
            text_offset=semantic + 1,
            text_pad_id=semantic + 1 + num_pieces,
            infer_id=semantic + 2 + num_pieces,
            # As many as the longest text of the data; spelt out, they fill the five seconds.
            prompt_length=20,
            max_new_tokens=256,
            rate_hz=SEMANTIC_RATE_HZ,
            gpt=GPTShape(5, 3, 192, 20 + 1 + 256, semantic + 3 + num_pieces, semantic + 1),
        ),
        coarse=CoarseSpec(
            semantic_pad_id=stop,
            infer_id=stop + 1,
            semantic_length=128,
            max_history=240,
            gpt=GPTShape(4, 4, 256, 128 + 1 + 240 + 60, stop + 2, stop + 2),
        ),
        fine=FineSpec(
            window=256,
            history=128,
            num_codebooks=NUM_CODEBOOKS,
            gpt=GPTShape(3, 3, 192, 256, CODEBOOK_SIZE + 1, CODEBOOK_SIZE + 1),
        ),
        codec=CodecSpec(
            num_filters=16, latent_dim=64, codebook_dim=64, num_codebooks=NUM_CODEBOOKS
        ),
        codebook_size=CODEBOOK_SIZE,
    )
