"""Whether a model's numbers fit one another: ids inside vocabularies, windows inside positions."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import InvalidCheckpoint
from pipeline.spec import BarkSpec


def check_agreement(spec: BarkSpec, path: Path) -> None:
    """Check a model's numbers across its stages.

    Raises:
        InvalidCheckpoint: names the first two numbers that contradict each other.
    """
    for is_right, complaint in _rules(spec):
        if not is_right:
            raise InvalidCheckpoint(
                f"{path}: the configuration contradicts itself: {complaint}; restore the original "
                "config.json and generation_config.json"
            )


def _rules(spec: BarkSpec) -> list[tuple[bool, str]]:
    text, coarse, fine, codec = spec.semantic, spec.coarse, spec.fine, spec.codec
    size = spec.codebook_size
    codes_end = text.vocab_size + coarse.num_codebooks * size
    semantic_positions = text.prompt_length + text.max_new_tokens
    coarse_positions = coarse.semantic_length + coarse.max_history + coarse.window
    return [
        (
            0 < text.vocab_size <= text.eos_id < text.gpt.output_vocab,
            f"semantic eos_token_id {text.eos_id} must lie between semantic_vocab_size "
            f"{text.vocab_size} and output_vocab_size {text.gpt.output_vocab}",
        ),
        (
            text.eos_id < text.text_offset < text.text_pad_id < text.gpt.input_vocab,
            f"text_encoding_offset {text.text_offset} and text_pad_token {text.text_pad_id} must "
            f"rise between eos_token_id {text.eos_id} and input_vocab_size {text.gpt.input_vocab}",
        ),
        (
            text.infer_id < text.gpt.input_vocab,
            f"semantic_infer_token {text.infer_id} is outside input_vocab_size "
            f"{text.gpt.input_vocab}",
        ),
        # The last token is never fed back: 257 prompt positions and 767 more are 1024.
        (
            semantic_positions <= text.gpt.block_size,
            f"max_input_semantic_length {text.prompt_length} and max_new_tokens "
            f"{text.max_new_tokens} need {semantic_positions} positions, semantic block_size is "
            f"{text.gpt.block_size}",
        ),
        (
            codes_end <= min(coarse.gpt.input_vocab, coarse.gpt.output_vocab),
            f"{text.vocab_size} semantic tokens and {coarse.num_codebooks} codebooks of {size} "
            f"do not fit the coarse vocabularies {coarse.gpt.input_vocab} and "
            f"{coarse.gpt.output_vocab}",
        ),
        (
            all(
                codes_end <= token < coarse.gpt.input_vocab
                for token in (coarse.semantic_pad_id, coarse.infer_id)
            ),
            f"coarse_semantic_pad_token {coarse.semantic_pad_id} and coarse_infer_token "
            f"{coarse.infer_id} must lie between the last code {codes_end - 1} and "
            f"input_vocab_size {coarse.gpt.input_vocab}",
        ),
        (
            coarse_positions <= coarse.gpt.block_size,
            f"max_coarse_input_length {coarse.semantic_length}, max_coarse_history "
            f"{coarse.max_history} and sliding_window_len {coarse.window} need {coarse_positions} "
            f"positions, coarse block_size is {coarse.gpt.block_size}",
        ),
        (
            fine.num_given <= coarse.num_codebooks <= fine.num_codebooks <= codec.num_codebooks,
            f"n_codes_given {fine.num_given}, n_coarse_codebooks {coarse.num_codebooks}, "
            f"n_codes_total {fine.num_codebooks} and the codec's {codec.num_codebooks} codebooks "
            "must not fall in this order",
        ),
        (
            size < fine.gpt.input_vocab and size <= fine.gpt.output_vocab,
            f"codebooks of {size} and their pad do not fit the fine vocabularies "
            f"{fine.gpt.input_vocab} and {fine.gpt.output_vocab}",
        ),
        (
            fine.window <= fine.gpt.block_size,
            f"max_fine_input_length {fine.window} is above fine block_size {fine.gpt.block_size}",
        ),
        # A window moves on by `history` frames; a longer step would leave frames unpredicted.
        (
            2 * fine.history <= fine.window,
            f"max_fine_history_length {fine.history} is above half of max_fine_input_length "
            f"{fine.window}",
        ),
        (
            codec.compress <= codec.num_filters,
            f"compress {codec.compress} is above num_filters {codec.num_filters}",
        ),
    ]
