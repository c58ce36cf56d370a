"""What is wrong with a checkpoint is found when it is opened, and said by file and key."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import InvalidCheckpoint
from pipeline.models.checkpoint import open_checkpoint
from pipeline.models.seeded import build_seeded

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("originals")
    build_seeded(root / "hf", size="tiny")
    build_seeded(root / "suno", size="tiny", layout="suno")
    return root


@pytest.fixture
def hf(originals: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals / "hf", tmp_path / "hf"))


@pytest.fixture
def suno(originals: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals / "suno", tmp_path / "suno"))


def complaint(path: Path) -> str:
    with pytest.raises(InvalidCheckpoint) as caught:
        open_checkpoint(path)
    return caught.value.message


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(path / WEIGHTS)
    change(state)
    save_file(state, path / WEIGHTS)


def configure(path: Path, name: str, section: str, key: str, value: object) -> None:
    content = json.loads((path / name).read_text())
    (content[section] if section else content)[key] = value
    (path / name).write_text(json.dumps(content))


# ── files ────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", WEIGHTS])
def test_missing_file_is_named(hf: Path, name: str) -> None:
    (hf / name).unlink()
    assert name in complaint(hf)


@pytest.mark.parametrize("name", ["text", "coarse", "fine"])
def test_missing_suno_file_is_named(suno: Path, name: str) -> None:
    (suno / f"{name}.pt").unlink()
    assert f"{name}_2.pt is missing" in complaint(suno)


def test_missing_codec_file_says_which_to_get(suno: Path) -> None:
    (suno / "encodec_seeded.th").unlink()
    assert "encodec_24khz-d7cc33bc.th" in complaint(suno)


def test_missing_shard_is_named(hf: Path) -> None:
    (hf / WEIGHTS).unlink()
    index = {"weight_map": {"semantic.lm_head.weight": "model-00001-of-00002.safetensors"}}
    (hf / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00001-of-00002.safetensors is missing" in complaint(hf)


def test_shard_outside_the_folder_is_refused(hf: Path) -> None:
    (hf / WEIGHTS).rename(hf.parent / "elsewhere.safetensors")
    index = {"weight_map": {"semantic.lm_head.weight": "../elsewhere.safetensors"}}
    (hf / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "no file name in this folder" in complaint(hf)


@pytest.mark.parametrize("kept", [0, 7, 1000, 20_000_000])
def test_truncated_safetensors_is_refused(hf: Path, kept: int) -> None:
    content = (hf / WEIGHTS).read_bytes()
    (hf / WEIGHTS).write_bytes(content[:kept])
    assert f"{WEIGHTS} is truncated" in complaint(hf)


@pytest.mark.parametrize("kept", [0, 7, 1000, 300_000])
@pytest.mark.parametrize("name", ["fine.pt", "encodec_seeded.th"])
def test_truncated_pickle_is_refused(suno: Path, name: str, kept: int) -> None:
    content = (suno / name).read_bytes()
    (suno / name).write_bytes(content[:kept])
    assert f"{name} is truncated" in complaint(suno)


@pytest.mark.parametrize("content", ["", "{", "[]", '"bark"', "\x00\xff"], ids=repr)
def test_broken_json_is_named(hf: Path, content: str) -> None:
    (hf / "generation_config.json").write_text(content, encoding="latin-1")
    assert "generation_config.json" in complaint(hf)


def test_empty_missing_and_plain_paths_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "does not exist" in complaint(tmp_path / "nowhere")
    assert "is a file" in complaint(tmp_path / "file")
    assert "text_2.pt" in complaint(tmp_path)


def test_changed_file_is_noticed_when_a_tensor_is_read(hf: Path) -> None:
    checkpoint = open_checkpoint(hf)
    content = (hf / WEIGHTS).read_bytes()
    (hf / WEIGHTS).unlink()
    (hf / WEIGHTS).write_bytes(content)
    with pytest.raises(InvalidCheckpoint, match="load it again"):
        checkpoint.tensor("fine", "norm_final.weight")
    (hf / WEIGHTS).unlink()
    with pytest.raises(InvalidCheckpoint, match="can not be read any more"):
        checkpoint.tensor("fine", "norm_final.weight")


# ── pickles ──────────────────────────────────────────────────────────────────────────────────────
class Bomb:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["fine.pt", "encodec_seeded.th", "pytorch_model.bin"])
@pytest.mark.parametrize("container", ["zip", "legacy", "bare pickle"])
def test_pickle_that_would_run_code_is_refused_and_not_run(
    hf: Path, suno: Path, tmp_path: Path, name: str, container: str
) -> None:
    folder = hf if name.endswith(".bin") else suno
    (hf / WEIGHTS).unlink()
    trace = tmp_path / "trace"
    content = {"model": {"a": torch.zeros(1)}, "model_args": {}, "best_val_loss": Bomb(trace)}
    if container == "bare pickle":
        (folder / name).write_bytes(pickle.dumps(content))
    else:
        is_zip = container == "zip"
        torch.save(content, folder / name, _use_new_zipfile_serialization=is_zip)
    message = complaint(folder)
    assert name in message
    assert not trace.exists()
    if container != "bare pickle":
        assert "could run code" in message


def test_pickle_without_tensors_is_refused(suno: Path) -> None:
    torch.save([1, 2], suno / "fine.pt")
    assert "fine.pt holds a list" in complaint(suno)
    torch.save({"model": 3}, suno / "fine.pt")
    assert "`model` is not a dict" in complaint(suno)


# ── keys and shapes ──────────────────────────────────────────────────────────────────────────────
def test_another_models_config_is_refused(hf: Path) -> None:
    configure(hf, "config.json", "", "model_type", "bert")
    assert "model_type is bert, expected bark" in complaint(hf)


@pytest.mark.parametrize(
    "key",
    [
        "semantic.layers.1.mlp.in_proj.weight",
        "fine_acoustics.layers.0.layernorm_1.bias",
        "codec_model.decoder.layers.1.lstm.bias_hh_l1",
        "codec_model.quantizer.layers.2.codebook.embed",
    ],
)
def test_missing_key_is_named(hf: Path, key: str) -> None:
    rewrite(hf, lambda state: state.pop(key))
    message = complaint(hf)
    assert f"lacks the key {key}" in message
    assert WEIGHTS in message


def test_half_of_a_weight_norm_is_a_missing_key(hf: Path) -> None:
    stem = "codec_model.decoder.layers.3.conv"
    rewrite(hf, lambda state: state.pop(f"{stem}.parametrizations.weight.original0"))
    assert f"lacks the key {stem}.weight" in complaint(hf)


@pytest.mark.parametrize(
    "key",
    [
        "semantic.layers.9.mlp.in_proj.weight",
        "semantic.layers.0.attn.att_proj.bias",
        "semantic.layers.0.attn.bias",
        "codec_model.decoder.layers.0.norm.weight",
        "vocoder.weight",
    ],
)
def test_unknown_key_is_named(hf: Path, key: str) -> None:
    rewrite(hf, lambda state: state.__setitem__(key, torch.zeros(96)))
    assert key in complaint(hf)


def test_unknown_key_in_a_suno_file_is_named(suno: Path) -> None:
    content = torch.load(suno / "coarse.pt", weights_only=False)
    content["model"]["_orig_mod.transformer.extra.weight"] = torch.zeros(3)
    torch.save(content, suno / "coarse.pt")
    message = complaint(suno)
    assert "coarse.pt, key _orig_mod.transformer.extra.weight" in message


@pytest.mark.parametrize(
    ("key", "shape", "expected"),
    [
        ("coarse_acoustics.lm_head.weight", (12_095, 32), [12_096, 32]),
        ("semantic.layers.0.attn.att_proj.weight", (32, 96), [96, 32]),
        (
            "codec_model.decoder.layers.3.conv.parametrizations.weight.original0",
            (1, 32, 1),
            [64, 1, 1],
        ),
        ("codec_model.quantizer.layers.1.codebook.embed", (1024, 17), [1024, 16]),
    ],
)
def test_wrong_shape_is_named_with_both_shapes(
    hf: Path, key: str, shape: tuple[int, ...], expected: list[int]
) -> None:
    rewrite(hf, lambda state: state.__setitem__(key, torch.zeros(shape)))
    message = complaint(hf)
    assert f"key {key}: found shape {list(shape)}, expected {expected}" in message


def test_quantised_weights_are_refused(hf: Path) -> None:
    key = "semantic.layers.0.mlp.in_proj.weight"
    rewrite(hf, lambda state: state.__setitem__(key, torch.zeros(128, 32, dtype=torch.int8)))
    assert f"{key}: found dtype I8" in complaint(hf)


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────
CONFIG, GENERATION = "config.json", "generation_config.json"


@pytest.mark.parametrize(
    ("name", "section", "key", "value", "words"),
    [
        (CONFIG, "semantic_config", "num_heads", 5, "num_heads = 5"),
        (CONFIG, "semantic_config", "num_layers", "two", "num_layers is 'two'"),
        (CONFIG, "semantic_config", "num_layers", 10**9, "num_layers is 1000000000"),
        (CONFIG, "semantic_config", "hidden_size", -32, "hidden_size is -32"),
        (CONFIG, "semantic_config", "bias", 0, "bias is 0, expected true or false"),
        (CONFIG, "", "codec_config", None, "codec_config is missing"),
        (CONFIG, "", "codec_config", [], "codec_config must be a JSON object"),
        (CONFIG, "codec_config", "norm_type", "time_group_norm", "norm_type"),
        (CONFIG, "codec_config", "use_causal_conv", False, "use_causal_conv"),
        (CONFIG, "codec_config", "codebook_dim", 8, "codebook_dim is 8"),
        (CONFIG, "codec_config", "upsampling_ratios", [8, 0], "upsampling_ratios"),
        (CONFIG, "codec_config", "sampling_rate", 48_000, "sample_rate is 24000"),
        (CONFIG, "fine_acoustics_config", "n_codes_given", 3, "n_codes_given 3"),
        (GENERATION, "", "codebook_size", 512, "codebook_size is 512"),
        (GENERATION, "coarse_acoustics_config", "coarse_rate_hz", 50, "coarse_rate_hz is 50"),
        (GENERATION, "semantic_config", "eos_token_id", 9_999, "eos_token_id 9999"),
        (GENERATION, "semantic_config", "eos_token_id", [10_000], "eos_token_id is [10000]"),
        (GENERATION, "semantic_config", "text_pad_token", 129_600, "text_pad_token 129600"),
        (GENERATION, "semantic_config", "text_encoding_offset", 10_000, "offset 10000"),
        (GENERATION, "semantic_config", "semantic_infer_token", 129_600, "infer_token 129600"),
        (GENERATION, "semantic_config", "max_new_tokens", 769, "need 1025 positions"),
        (GENERATION, "semantic_config", "semantic_rate_hz", 0, "semantic_rate_hz is 0"),
        (GENERATION, "semantic_config", "semantic_vocab_size", 10_001, "_vocab_size 10001"),
        (GENERATION, "coarse_acoustics_config", "n_coarse_codebooks", 3, "3 codebooks"),
        (GENERATION, "coarse_acoustics_config", "coarse_infer_token", 12_047, "12047"),
        (GENERATION, "coarse_acoustics_config", "coarse_semantic_pad_token", 12_096, "12096"),
        (GENERATION, "coarse_acoustics_config", "max_coarse_history", 709, "need 1025"),
        (GENERATION, "fine_acoustics_config", "max_fine_input_length", 1025, "length 1025"),
        (GENERATION, "fine_acoustics_config", "max_fine_history_length", 513, "length 513"),
        (GENERATION, "fine_acoustics_config", "n_fine_codebooks", 7, "n_fine_codebooks is 7"),
    ],
)
def test_contradicting_number_is_named(
    hf: Path, name: str, section: str, key: str, value: object, words: str
) -> None:
    configure(hf, name, section, key, value)
    message = complaint(hf)
    assert words in message
    assert str(hf) in message


def test_suno_file_without_model_args_is_refused(suno: Path) -> None:
    content = torch.load(suno / "text.pt", weights_only=False)
    del content["model_args"]["n_head"]
    torch.save(content, suno / "text.pt")
    assert "text.pt: model_args.n_head is missing" in complaint(suno)
    del content["model_args"]
    torch.save(content, suno / "text.pt")
    assert "text.pt: model_args is missing" in complaint(suno)


def test_another_models_codec_is_refused(suno: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, suno / "encodec_seeded.th")
    assert "this is no EnCodec model" in complaint(suno)


def test_vocabulary_that_does_not_fit_is_refused(hf: Path) -> None:
    (hf / "vocab.txt").write_text("word\n" * 119_548)
    assert "vocab.txt has 119548 entries" in complaint(hf)
    (hf / "vocab.txt").write_text("word\n" * 119_547)
    open_checkpoint(hf)
