"""Checkpoints with random weights from a seed: true shapes, true layouts, no meaning.

For tests, and for benchmarks at the published models' sizes. Scales are chosen so that logits
have a spread and the codec's output looks like sound (rms between 0.01 and 0.5): every stage does
real work, though nobody is heard to speak.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from pipeline.models.hf_layout import PREFIXES
from pipeline.models.hf_layout import KeyNames as HFKeyNames
from pipeline.models.hf_writing import Tensor, write_configs, write_safetensors
from pipeline.models.sizes import Size, seeded_spec
from pipeline.models.suno_layout import COMPILED, GPT_FILES
from pipeline.models.suno_layout import KeyNames as SunoKeyNames
from pipeline.models.tensor_shapes import (
    STAGES,
    Shape,
    Stage,
    encoder_shapes,
    tensor_shapes,
    transposed_layers,
)
from pipeline.models.word_pieces import small_vocabulary
from pipeline.spec import BarkSpec

DType = Literal["float32", "float16", "bfloat16"]


def build_seeded(
    path: Path,
    *,
    size: Size,
    seed: int = 0,
    layout: Literal["hf", "suno"] = "hf",
    dtype: DType = "float32",
) -> None:
    """Write a random checkpoint into a folder.

    A tensor depends on size, seed and its name alone: both layouts hold the same values, and a
    float16 checkpoint the rounded ones. In the Hugging Face layout memory holds one tensor at a
    time and transformers' `BarkModel` reads the folder; Suno's holds one stage.
    """
    path.mkdir(parents=True, exist_ok=True)
    spec = seeded_spec(size)
    vocabulary = small_vocabulary()
    assert len(vocabulary) <= spec.semantic.text_pad_id - spec.semantic.text_offset
    (path / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    if layout == "hf":
        write_configs(path, spec, dtype)
        tensors = [t for stage in STAGES for t in _stage_tensors(spec, stage, seed, layout)]
        write_safetensors(path / "model.safetensors", tensors, dtype)
    else:
        for stage in STAGES:
            _write_suno(path, spec, stage, seed, getattr(torch, dtype))


# ── values ───────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class _Values:
    """The random tensors of one stage."""

    spec: BarkSpec
    stage: Stage
    seed: int

    def noise(self, name: str, shape: Shape) -> torch.Tensor:
        """Return unit normals that depend on seed, stage and name alone."""
        key = f"{self.seed}/{self.stage}/{name}".encode()
        number = int.from_bytes(hashlib.sha256(key).digest()[:7], "little")
        return torch.randn(shape, generator=torch.Generator().manual_seed(number))

    def value(self, name: str, shape: Shape) -> torch.Tensor:
        """Return a tensor as it is stored, weight norm's direction for a convolution."""
        noise = self.noise(name, shape)
        if "norm_" in name:
            return noise.mul_(0.1).add_(1) if name.endswith("weight") else noise.mul_(0.05)
        if name.endswith("bias") or ".bias_" in name:
            return noise.mul_(0.02) if shape != (1,) else noise.zero_()  # the sound's own offset
        if match := re.fullmatch(r"codebooks\.(\d+)", name):
            # Residual quantisers: each adds less than the one before; the sum of 8 is near 1.
            return noise.mul_(0.7 * 0.7 ** int(match[1]))
        if name.endswith(".conv.weight"):
            if shape[0] == 1:
                noise -= noise.mean(dim=-1, keepdim=True)  # no direct current in the sound
            return noise
        return noise.mul_(self._spread(name, shape))

    def _spread(self, name: str, shape: Shape) -> float:
        if name == "position_embedding.weight":
            return 0.3
        if name.startswith(("head", "token_embeddings.")):
            return 2.5 / sqrt(shape[1])  # logits with a spread of 2.5, on normed activations
        if name == "token_embedding.weight":
            return 0.7
        if name.endswith(("attention_out.weight", "mlp_out.weight")):
            return 0.5 / sqrt(shape[1])
        return 1 / sqrt(shape[1])

    def magnitude(self, name: str, shape: Shape) -> torch.Tensor:
        """Return weight norm's magnitude: a gain that keeps the level from layer to layer."""
        size = (shape[0], *[1] * (len(shape) - 1))
        gain = 0.8
        if name in {f"decoder.layers.{i}.conv.weight" for i, _ in self._transposed}:
            gain = sqrt(shape[2] / 2 * shape[1] / shape[0])  # dim 0 is the input, two taps meet
        elif shape[0] == 1:
            gain = 0.3  # the last convolution sets the loudness
        return gain * (1 + 0.1 * self.noise(f"{name} magnitude", size)).clamp(0.5, 1.5)

    @property
    def _transposed(self) -> list[tuple[int, int]]:
        return list(transposed_layers(self.spec.codec))


def _stage_tensors(
    spec: BarkSpec, stage: Stage, seed: int, layout: Literal["hf", "suno"]
) -> Iterator[Tensor]:
    """Yield a stage's tensors under the layout's keys."""
    values = _Values(spec, stage, seed)
    names: HFKeyNames | SunoKeyNames
    if layout == "hf":
        names, pair = HFKeyNames(PREFIXES[stage], is_tied=True), "original0"
    else:
        transposed = frozenset(str(index) for index, _ in transposed_layers(spec.codec))
        names, pair = SunoKeyNames(transposed), "_g"
    shapes = tensor_shapes(spec)[stage]
    if stage == "codec":
        shapes |= encoder_shapes(spec.codec)
    for name, shape in shapes.items():
        choices = list(names(name))
        if name.startswith("heads."):
            continue  # tied: the tables are their weights
        if not name.endswith(".conv.weight"):
            yield _tensor(values, choices[0][0], name, shape)
            if name.startswith("codebooks."):
                yield from _quantiser_state(values, choices[0][0], name, shape)
            continue
        g, v = next(c for c in choices if len(c) == 2 and c[0].endswith(pair))
        yield Tensor(
            g,
            (shape[0], *[1] * (len(shape) - 1)),
            lambda name=name, shape=shape: values.magnitude(name, shape),  # type: ignore[misc]
        )
        yield _tensor(values, v, name, shape)


def _tensor(values: _Values, key: str, name: str, shape: Shape) -> Tensor:
    return Tensor(key, shape, lambda: values.value(name, shape))


def _quantiser_state(values: _Values, key: str, name: str, shape: Shape) -> Iterator[Tensor]:
    """Yield what training left beside a codebook: not needed, but whole checkpoints hold it."""
    stem = key.removesuffix("embed")
    yield Tensor(f"{stem}inited", (1,), lambda: torch.ones(1))
    yield Tensor(f"{stem}cluster_size", shape[:1], lambda: torch.ones(shape[0]))
    yield Tensor(f"{stem}embed_avg", shape, lambda: values.value(name, shape))


# ── Suno's files ─────────────────────────────────────────────────────────────────────────────────
def _write_suno(path: Path, spec: BarkSpec, stage: Stage, seed: int, dtype: torch.dtype) -> None:
    state = {t.key: t.make().to(dtype) for t in _stage_tensors(spec, stage, seed, "suno")}
    if stage == "codec":
        torch.save(state, path / "encodec_seeded.th")
        return
    gpt = {"semantic": spec.semantic.gpt, "coarse": spec.coarse.gpt, "fine": spec.fine.gpt}[stage]
    args: dict[str, Any] = {
        "n_layer": gpt.num_layers,
        "n_head": gpt.num_heads,
        "n_embd": gpt.width,
        "block_size": gpt.block_size,
        "bias": gpt.has_bias,
        "dropout": 0.0,
        "input_vocab_size": gpt.input_vocab,
        "output_vocab_size": gpt.output_vocab,
    }
    if stage == "fine":
        args |= {"n_codes_total": spec.fine.num_codebooks, "n_codes_given": spec.fine.num_given}
        for i in range(spec.fine.num_codebooks - spec.fine.num_given):
            state[f"lm_heads.{i}.weight"] = state[f"transformer.wtes.{i + 1}.weight"]
    large = gpt.width >= 1024
    torch.save(
        {
            "model": {f"{COMPILED}{key}": value for key, value in state.items()},
            "model_args": args,
            "iter_num": 0,
            "best_val_loss": np.float64(1.0),
        },
        path / GPT_FILES[stage][0 if large else 1],
    )
