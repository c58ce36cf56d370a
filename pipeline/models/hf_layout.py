"""The layout of transformers' `BarkModel`: config.json, generation_config.json and weights.

Finds the files and turns our tensor names into theirs; `hf_config` reads the numbers.
Source: the key names of transformers 5.23 `modeling_bark.py` and `modeling_encodec.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InvalidCheckpoint
from pipeline.models.hf_config import read_spec
from pipeline.models.settings import Settings
from pipeline.models.stored_tensors import (
    KeyTable,
    Located,
    StoredTensor,
    tied_table,
    weight_norm_keys,
)
from pipeline.models.tensor_shapes import Stage, tensor_shapes
from pipeline.models.weight_files import SafetensorsFile, TorchFile, WeightFile
from pipeline.spec import BarkSpec

CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"

# In order of preference: a pickle is opened only where there is nothing else.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
PREFIXES: dict[Stage, str] = {
    "semantic": "semantic.",
    "coarse": "coarse_acoustics.",
    "fine": "fine_acoustics.",
    "codec": "codec_model.",
}
_PARTS = {
    "token_embedding": "input_embeds_layer",
    "token_embeddings": "input_embeds_layers",
    "position_embedding": "position_embeds_layer",
    "norm_1": "layernorm_1",
    "norm_2": "layernorm_2",
    "attention_in": "attn.att_proj",
    "attention_out": "attn.out_proj",
    "mlp_in": "mlp.in_proj",
    "mlp_out": "mlp.out_proj",
    "norm_final": "layernorm_final",
    "head": "lm_head",
    "heads": "lm_heads",
}
_IGNORED = re.compile(
    r"codec_model\.(encoder\..+|quantizer\.layers\.\d+\.codebook\.(inited|cluster_size|embed_avg))"
)


def is_hf_layout(path: Path) -> bool:
    return (path / CONFIG).exists() or any((path / name).exists() for name in WEIGHTS)


def read_hf(
    path: Path,
) -> tuple[BarkSpec, dict[Stage, dict[str, StoredTensor]], tuple[Path, ...]]:
    """Read a folder's configuration and headers.

    Returns:
        The model's numbers, where each tensor lies, and the files that decide both.

    Raises:
        InvalidCheckpoint: names the file and key that is missing, foreign or contradictory.
    """
    config = Settings.read(path / CONFIG)
    model_type = config.text("model_type", "")
    if model_type != "bark":
        raise InvalidCheckpoint(
            f"{config.path}: model_type is {model_type or 'not given'}, expected bark; this folder "
            "holds another kind of model"
        )
    generation = Settings.read(path / GENERATION_CONFIG)
    index, files = _weight_files(path)
    keys = {key: Located(file, key) for file in files for key in file.headers}
    spec = read_spec(config, generation, {key: at.header.shape for key, at in keys.items()})
    table = KeyTable(keys, str(index or files[0].path))
    is_tied = config.part("fine_acoustics_config").flag("tie_word_embeddings", True)
    tensors: dict[Stage, dict[str, StoredTensor]] = {}
    for stage, shapes in tensor_shapes(spec).items():
        tensors[stage] = table.bind(shapes, KeyNames(PREFIXES[stage], is_tied))
    table.refuse_unknown(_IGNORED)
    deciding = [config.path, generation.path, *(file.path for file in files)]
    return spec, tensors, tuple(deciding if index is None else [*deciding, index])


@dataclass(frozen=True, slots=True)
class KeyNames:
    """Our tensor name → the keys that it may have in one stage's part of the file."""

    prefix: str
    is_tied: bool

    def __call__(self, name: str) -> Iterator[tuple[str, ...]]:
        if name.startswith("codebooks."):
            number = name.removeprefix("codebooks.")
            yield (f"{self.prefix}quantizer.layers.{number}.codebook.embed",)
        elif name.startswith(("decoder.", "encoder.")):
            key = self.prefix + name
            yield from weight_norm_keys(key) if name.endswith(".conv.weight") else [(key,)]
        else:
            yield (self.prefix + _renamed(name),)
            table = tied_table(name)
            if table and self.is_tied:
                yield (self.prefix + _renamed(table),)


def _renamed(name: str) -> str:
    return ".".join(_PARTS.get(part, part) for part in name.split("."))


# ── files ────────────────────────────────────────────────────────────────────────────────────────
def _weight_files(path: Path) -> tuple[Path | None, list[WeightFile]]:
    """Return the index, if the weights are split, and the files of weights."""
    name = next((name for name in WEIGHTS if (path / name).exists()), None)
    if name is None:
        raise InvalidCheckpoint(
            f"{path} has no weights: one of {', '.join(WEIGHTS)} must be there; copy or download "
            "the model again"
        )
    if not name.endswith(".index.json"):
        return None, [_open(path / name)]
    index = Settings.read(path / name)
    weight_map = index.part("weight_map", required=True)
    shards = sorted({weight_map.text(key, "") for key in weight_map.values})
    for shard in shards:
        if Path(shard).name != shard or not shard:
            raise InvalidCheckpoint(f"{weight_map.name(shard)} is no file name in this folder")
    return index.path, [_open(path / shard) for shard in shards]


def _open(path: Path) -> WeightFile:
    return SafetensorsFile.open(path) if path.suffix == ".safetensors" else TorchFile.open(path)
