"""The Hugging Face layout, written: a `BarkSpec` as its two JSON files, tensors one by one.

The inverse of `hf_config` and `hf_layout`, for the checkpoints that we make ourselves. A file of
safetensors is written tensor by tensor, so memory holds no more than one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil, log2, prod
from pathlib import Path
from typing import Any

import torch

from pipeline.spec import BarkSpec, CodecSpec, GPTShape

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor to write. make: computes it when its turn comes."""

    key: str
    shape: tuple[int, ...]
    make: Callable[[], torch.Tensor]


def write_safetensors(path: Path, tensors: Iterable[Tensor], dtype: str) -> None:
    """Write tensors of one dtype. The bytes depend on the arguments alone.

    Source: the format's description in safetensors' README: length, JSON header, data.
    """
    kind: torch.dtype = getattr(torch, dtype)
    tensors = sorted(tensors, key=lambda tensor: tensor.key)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + prod(tensor.shape) * kind.itemsize
        header[tensor.key] = {
            "dtype": DTYPES[dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data starts on a multiple of 8
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            value = tensor.make().to(kind).contiguous()
            assert tuple(value.shape) == tensor.shape, tensor.key
            file.write(value.view(-1).view(torch.uint8).numpy().data)


def write_configs(folder: Path, spec: BarkSpec, dtype: str) -> None:
    """Write config.json, generation_config.json and tokenizer_config.json."""
    for name, content in (
        ("config.json", _config(spec, dtype)),
        ("generation_config.json", _generation_config(spec)),
        ("tokenizer_config.json", _TOKENIZER_CONFIG),
    ):
        (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


# Bark's tokenizer is cased; without this transformers would lower-case the text.
_TOKENIZER_CONFIG = {
    "tokenizer_class": "BertTokenizer",
    "do_lower_case": False,
    "strip_accents": None,
    "tokenize_chinese_chars": True,
    "model_max_length": 512,
    "unk_token": "[UNK]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def _config(spec: BarkSpec, dtype: str) -> dict[str, Any]:
    fine = {
        "n_codes_total": spec.fine.num_codebooks,
        "n_codes_given": spec.fine.num_given,
        "tie_word_embeddings": True,
    }
    return {
        "architectures": ["BarkModel"],
        "model_type": "bark",
        "dtype": dtype,
        "initializer_range": 0.02,
        "semantic_config": _gpt(spec.semantic.gpt, "semantic"),
        "coarse_acoustics_config": _gpt(spec.coarse.gpt, "coarse_acoustics"),
        "fine_acoustics_config": _gpt(spec.fine.gpt, "fine_acoustics") | fine,
        "codec_config": _codec(spec.codec, spec.codebook_size),
    }


def _gpt(gpt: GPTShape, model_type: str) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "num_layers": gpt.num_layers,
        "num_heads": gpt.num_heads,
        "hidden_size": gpt.width,
        "block_size": gpt.block_size,
        "input_vocab_size": gpt.input_vocab,
        "output_vocab_size": gpt.output_vocab,
        "bias": gpt.has_bias,
        "dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
    }


def _codec(codec: CodecSpec, codebook_size: int) -> dict[str, Any]:
    # transformers derives the number of codebooks from the last bandwidth.
    kbps_a_codebook = codec.frame_rate_hz * ceil(log2(codebook_size)) / 1000
    steps = {2, 4, 8, 16, 32, codec.num_codebooks}
    return {
        "model_type": "encodec",
        "sampling_rate": codec.sample_rate,
        "audio_channels": 1,
        "normalize": False,
        "target_bandwidths": [
            round(kbps_a_codebook * n, 3) for n in sorted(steps) if n <= codec.num_codebooks
        ],
        "codebook_size": codebook_size,
        "codebook_dim": codec.codebook_dim,
        "hidden_size": codec.latent_dim,
        "num_filters": codec.num_filters,
        "num_residual_layers": codec.num_residual_layers,
        "upsampling_ratios": list(codec.upsampling_ratios),
        "kernel_size": codec.kernel_size,
        "last_kernel_size": codec.last_kernel_size,
        "residual_kernel_size": codec.residual_kernel_size,
        "dilation_growth_rate": codec.dilation_growth_rate,
        "compress": codec.compress,
        "num_lstm_layers": codec.num_lstm_layers,
        "use_conv_shortcut": codec.use_conv_shortcut,
        "norm_type": "weight_norm",
        "pad_mode": "reflect",
        "use_causal_conv": True,
        "trim_right_ratio": 1.0,
    }


def _generation_config(spec: BarkSpec) -> dict[str, Any]:
    text, coarse, fine = spec.semantic, spec.coarse, spec.fine
    return {
        "codebook_size": spec.codebook_size,
        "sample_rate": spec.sample_rate,
        "semantic_config": {
            "do_sample": True,
            "temperature": 0.7,
            "eos_token_id": text.eos_id,
            "max_input_semantic_length": text.prompt_length,
            "max_new_tokens": text.max_new_tokens,
            "semantic_infer_token": text.infer_id,
            "semantic_rate_hz": text.rate_hz,
            "semantic_vocab_size": text.vocab_size,
            "text_encoding_offset": text.text_offset,
            "text_pad_token": text.text_pad_id,
        },
        "coarse_acoustics_config": {
            "do_sample": True,
            "temperature": 0.7,
            "coarse_infer_token": coarse.infer_id,
            "coarse_rate_hz": int(spec.codec.frame_rate_hz),
            "coarse_semantic_pad_token": coarse.semantic_pad_id,
            "max_coarse_history": coarse.max_history,
            "max_coarse_input_length": coarse.semantic_length,
            "n_coarse_codebooks": coarse.num_codebooks,
            "sliding_window_len": coarse.window,
        },
        "fine_acoustics_config": {
            "temperature": 0.5,
            "max_fine_history_length": fine.history,
            "max_fine_input_length": fine.window,
            "n_fine_codebooks": fine.num_codebooks,
        },
    }
