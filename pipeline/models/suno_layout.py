"""The layout of Suno's own package: three .pt files and an EnCodec .th file in one folder.

Shapes come from each file's `model_args` and from the codec's tensors; token ids, windows and
rates are in no file: they are Suno's constants, the defaults of `BarkSpec`.
Sources: suno-ai/bark f4f32d4 `generation.py` (`_load_model`, REMOTE_MODEL_PATHS), `model.py`;
encodec 0.1.1 `modules/seanet.py` for the codec's key names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from pipeline.errors import InvalidCheckpoint
from pipeline.models.settings import MAX_COUNT, Settings
from pipeline.models.stored_tensors import (
    KeyTable,
    Located,
    StoredTensor,
    tied_table,
    weight_norm_keys,
)
from pipeline.models.tensor_shapes import Stage, tensor_shapes
from pipeline.models.weight_files import TorchFile
from pipeline.spec import BarkSpec, CodecSpec, GPTShape

# The large model's name first: `_2` is what Suno loads unless told to use the small models.
GPT_FILES: dict[Stage, tuple[str, str]] = {
    "semantic": ("text_2.pt", "text.pt"),
    "coarse": ("coarse_2.pt", "coarse.pt"),
    "fine": ("fine_2.pt", "fine.pt"),
}
COMPILED = "_orig_mod."  # torch.compile's mark on every key of Suno's files
_PARTS = {
    "token_embedding": "transformer.wte",
    "token_embeddings": "transformer.wtes",
    "position_embedding": "transformer.wpe",
    "layers": "transformer.h",
    "norm_1": "ln_1",
    "norm_2": "ln_2",
    "attention_in": "attn.c_attn",
    "attention_out": "attn.c_proj",
    "mlp_in": "mlp.c_fc",
    "mlp_out": "mlp.c_proj",
    "norm_final": "transformer.ln_f",
    "head": "lm_head",
    "heads": "lm_heads",
}
_IGNORED = re.compile(
    r"encoder\..+|quantizer\.vq\.layers\.\d+\._codebook\.(inited|cluster_size|embed_avg)"
)


def is_suno_layout(path: Path) -> bool:
    return any((path / name).exists() for names in GPT_FILES.values() for name in names)


def read_suno(
    path: Path,
) -> tuple[BarkSpec, dict[Stage, dict[str, StoredTensor]], tuple[Path, ...]]:
    """Read a folder's headers.

    Returns:
        The model's numbers, where each tensor lies, and the files that decide both.

    Raises:
        InvalidCheckpoint: names the file and key that is missing, foreign or contradictory.
    """
    files: dict[Stage, TorchFile] = {
        stage: TorchFile.open(_choose(path, names)) for stage, names in GPT_FILES.items()
    }
    files["codec"] = TorchFile.open(_codec_file(path))
    keys = {stage: _located(file) for stage, file in files.items()}
    spec = _spec(files, keys["codec"])
    tensors: dict[Stage, dict[str, StoredTensor]] = {}
    for stage, shapes in tensor_shapes(spec).items():
        table = KeyTable(keys[stage], str(files[stage].path))
        tensors[stage] = table.bind(shapes, KeyNames(_transposed(keys["codec"])))
        table.refuse_unknown(_IGNORED)
    return spec, tensors, tuple(file.path for file in files.values())


def _choose(path: Path, names: tuple[str, ...]) -> Path:
    found = next((path / name for name in names if (path / name).exists()), None)
    if found is None:
        raise InvalidCheckpoint(
            f"{path / names[0]} is missing (and {names[1]}, its small version, too): Suno's layout "
            "needs text, coarse and fine; copy or download the model again"
        )
    return found


def _codec_file(path: Path) -> Path:
    found = sorted(path.glob("*.th"))
    if len(found) != 1:
        there = f"{len(found)} .th files" if found else "no .th file"
        raise InvalidCheckpoint(
            f"{path} has {there}, expected one: put EnCodec's encodec_24khz-d7cc33bc.th beside the "
            "three .pt files"
        )
    return found[0]


def _located(file: TorchFile) -> dict[str, Located]:
    return {key.removeprefix(COMPILED): Located(file, key) for key in file.headers}


@dataclass(frozen=True, slots=True)
class KeyNames:
    """Our tensor name → the keys that it may have in its stage's file."""

    transposed: frozenset[str]

    def __call__(self, name: str) -> Iterator[tuple[str, ...]]:
        if name.startswith("codebooks."):
            number = name.removeprefix("codebooks.")
            yield (f"quantizer.vq.layers.{number}._codebook.embed",)
        elif name.startswith(("decoder.", "encoder.")):
            half, _, index, _ = name.split(".", 3)
            is_transposed = half == "decoder" and index in self.transposed
            kind = "convtr" if is_transposed else "conv"
            key = name.replace(f"{half}.layers.", f"{half}.model.")
            key = key.replace(".conv.", f".{kind}.{kind}.")
            yield from weight_norm_keys(key) if name.endswith(".conv.weight") else [(key,)]
        else:
            yield (_renamed(name),)
            table = tied_table(name)
            if table:
                yield (_renamed(table),)


def _renamed(name: str) -> str:
    return ".".join(_PARTS.get(part, part) for part in name.split("."))


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────
def _spec(files: dict[Stage, TorchFile], codec_keys: dict[str, Located]) -> BarkSpec:
    given = BarkSpec()
    fine_args = _model_args(files["fine"])
    codec, codebook_size = _codec(codec_keys, files["codec"].path)
    return replace(
        given,
        semantic=replace(given.semantic, gpt=_gpt(_model_args(files["semantic"]))),
        coarse=replace(given.coarse, gpt=_gpt(_model_args(files["coarse"]))),
        fine=replace(
            given.fine,
            num_codebooks=fine_args.integer(
                "n_codes_total", given.fine.num_codebooks, minimum=1, maximum=MAX_COUNT
            ),
            num_given=fine_args.integer("n_codes_given", given.fine.num_given, minimum=1),
            gpt=_gpt(fine_args),
        ),
        codec=codec,
        codebook_size=codebook_size,
    )


def _model_args(file: TorchFile) -> Settings:
    return Settings(file.path, file.extras).part("model_args", required=True)


def _gpt(args: Settings) -> GPTShape:
    """Read `model_args`; files older than the two vocabularies have `vocab_size` for both."""
    for key in ("n_layer", "n_head", "n_embd", "block_size"):
        if key not in args:
            raise InvalidCheckpoint(f"{args.name(key)} is missing: is this one of Suno's files?")
    both = args.integer("vocab_size", 0)
    shape = GPTShape(
        num_layers=args.integer("n_layer", 0, minimum=1, maximum=MAX_COUNT),
        num_heads=args.integer("n_head", 0, minimum=1),
        width=args.integer("n_embd", 0, minimum=1),
        block_size=args.integer("block_size", 0, minimum=1),
        input_vocab=args.integer("input_vocab_size", both, minimum=1),
        output_vocab=args.integer("output_vocab_size", both, minimum=1),
        has_bias=args.flag("bias", False),
    )
    if shape.width % shape.num_heads:
        raise InvalidCheckpoint(
            f"{args.name('n_embd')} is {shape.width}, which n_head = {shape.num_heads} does not "
            "divide"
        )
    return shape


def _transposed(keys: dict[str, Located]) -> frozenset[str]:
    pattern = re.compile(r"decoder\.model\.(\d+)\.convtr\..+")
    return frozenset(match[1] for key in keys if (match := pattern.fullmatch(key)))


def _codec(keys: dict[str, Located], path: Path) -> tuple[CodecSpec, int]:
    """Read the codec's shape off its tensors, and its codebooks' size.

    The kernels of transposed convolutions are twice their ratio; what no tensor shows (sample
    rate, dilation) is the 24 kHz model's.
    """

    def shape_of(stem: str) -> tuple[int, ...]:
        for choice in weight_norm_keys(f"{stem}.weight"):
            if all(key in keys for key in choice):
                return keys[choice[-1]].header.shape
        raise InvalidCheckpoint(
            f"{path} lacks the key {stem}.weight_v: this is no EnCodec model; put "
            "encodec_24khz-d7cc33bc.th there"
        )

    def count(pattern: str) -> int:
        return len({match[1] for key in keys if (match := re.fullmatch(pattern, key))})

    books = count(r"quantizer\.vq\.layers\.(\d+)\._codebook\.embed")
    transposed = sorted(int(index) for index in _transposed(keys))
    first = shape_of("decoder.model.0.conv.conv")
    if not books or not transposed or len(first) != 3:
        raise InvalidCheckpoint(
            f"{path} has no codebooks or no decoder: this is no EnCodec model; put "
            "encodec_24khz-d7cc33bc.th there"
        )
    codebook = keys.get("quantizer.vq.layers.0._codebook.embed")
    if codebook is None or len(codebook.header.shape) != 2:
        raise InvalidCheckpoint(f"{path} lacks the key quantizer.vq.layers.0._codebook.embed")
    steps = [b - a for a, b in pairwise(transposed)] or [3]
    residual = f"decoder.model.{transposed[0] + 1}.block.1.conv.conv"
    num_residual_layers = steps[0] - 2
    has_residual = num_residual_layers > 0
    inner = shape_of(residual) if has_residual else (1, 2, 3)
    last = transposed[-1] + num_residual_layers + 2
    codec = CodecSpec(
        num_filters=shape_of(f"decoder.model.{last}.conv.conv")[1],
        latent_dim=first[1],
        codebook_dim=codebook.header.shape[1],
        num_codebooks=books,
        upsampling_ratios=tuple(
            shape_of(f"decoder.model.{index}.convtr.convtr")[-1] // 2 for index in transposed
        ),
        kernel_size=first[2],
        last_kernel_size=shape_of(f"decoder.model.{last}.conv.conv")[-1],
        residual_kernel_size=inner[-1],
        num_residual_layers=num_residual_layers,
        compress=inner[1] // inner[0],
        num_lstm_layers=count(r"decoder\.model\.1\.lstm\.weight_hh_l(\d+)"),
        use_conv_shortcut=any(".shortcut." in key for key in keys),
    )
    return codec, codebook.header.shape[0]
