"""Trained weights become a checkpoint in the Hugging Face layout, in fp16.

The encoder is left out: no clip was ever encoded with it, Bark does not run it, and random
weights would pretend otherwise.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import torch

from pipeline.models.hf_layout import PREFIXES, KeyNames
from pipeline.models.hf_writing import Tensor, write_configs, write_safetensors
from pipeline.models.tensor_shapes import Stage
from pipeline.spec import BarkSpec
from training.nano.gpt import phased_rows
from training.nano.phases import NUM_PHASES
from training.nano.pieces import pieces
from training.nano.shape import nano_spec
from training.nano.texts import write_vocabulary
from training.nano.tokens import Index

# Bark's customary temperature is 0.7 and is nowhere a model's own; nano speaks best colder. Its
# logits are scaled instead, so that 0.7 is to nano what 0.7 / SHARPNESS was in training. The fine
# model learns flat probabilities (`nearness`), of which all but the best are noise.
SHARPNESS: Final[Mapping[str, float]] = {"semantic": 2.0, "coarse": 2.0, "fine": 20.0}

State = Mapping[str, torch.Tensor]


def export(run: Path, target: Path, sharpness: Mapping[str, float] = SHARPNESS) -> None:
    """Write the checkpoint of a finished run into a folder, in place of what was there."""
    draft = target.with_name(f"{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    spec = nano_spec(len(Index.read(run / "tokens").symbols))
    write_configs(draft, spec, "float16")
    write_vocabulary(draft)
    shutil.copy(Path(__file__).parent / "NOTICE", draft)
    tensors = [
        tensor
        for stage in PREFIXES
        for tensor in (
            _codec(run) if stage == "codec" else _gpt(run, stage, spec, sharpness.get(stage, 1.0))
        )
    ]
    write_safetensors(draft / "model.safetensors", tensors, "float16")
    shutil.rmtree(target, ignore_errors=True)
    draft.replace(target)


def _gpt(run: Path, stage: Stage, spec: BarkSpec, sharpness: float) -> Iterator[Tensor]:
    state = dict(_weights(run, stage))
    states = spec.semantic.vocab_size // NUM_PHASES
    if stage == "semantic":
        for part, phases in (("token_embedding", "phases_in"), ("head", "phases_out")):
            rows = state[f"{part}.weight"]
            state[f"{part}.weight"] = phased_rows(rows, state.pop(phases), states)
    if stage == "coarse":  # a phoneme sounds the same in every phase
        rows, head = state["token_embedding.weight"], state["head.weight"]
        state["token_embedding.weight"] = torch.cat(
            [rows[:states].repeat(NUM_PHASES, 1), rows[states:]]
        )
        # It never says a semantic token: zeros, which cost the wheel nothing.
        nothing = head.new_zeros(states * NUM_PHASES, head.shape[1])
        state["head.weight"] = torch.cat([nothing, head[states:]])
    # The fine model's output tables are its input tables: there the last norm is scaled instead.
    last = "norm_final" if stage == "fine" else "head"
    state |= {name: sharpness * state[name] for name in state if name.startswith(f"{last}.")}
    if stage == "semantic":
        offset, (_, sources) = spec.semantic.text_offset, pieces()
        table = state["token_embedding.weight"].clone()
        table[offset : offset + len(sources)] = table[[offset + row for row in sources]]
        state["token_embedding.weight"] = table
    keys = KeyNames(PREFIXES[stage], is_tied=True)
    for name, value in state.items():
        ours = name.replace("attention.qkv", "attention_in").replace(
            "attention.out", "attention_out"
        )
        yield _tensor(next(keys(ours))[0], value)


def _codec(run: Path) -> Iterator[Tensor]:
    """Name the decoder (transformers' names already) and the books, with a plain state each."""
    for name, value in _weights(run, "codec").items():
        yield _tensor(f"{PREFIXES['codec']}decoder.{name}", value)
    for k, book in enumerate(np.load(run / "tokens" / "books.npy")):
        stem = f"{PREFIXES['codec']}quantizer.layers.{k}.codebook."
        yield _tensor(f"{stem}embed", torch.from_numpy(book))
        yield _tensor(f"{stem}inited", torch.ones(1))
        yield _tensor(f"{stem}cluster_size", torch.ones(len(book)))


def _weights(run: Path, name: str) -> State:
    path = run / "weights" / f"{name}.pt"
    state: State = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _tensor(key: str, value: torch.Tensor) -> Tensor:
    return Tensor(key, tuple(value.shape), lambda: value)
