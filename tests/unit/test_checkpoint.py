"""Both layouts, in all the forms in which they are found, give the same tensors and numbers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.models.checkpoint import STAGES, open_checkpoint
from pipeline.models.locate import locate
from pipeline.models.seeded import build_seeded
from pipeline.models.sizes import seeded_spec

State = dict[str, torch.Tensor]
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hf")
    build_seeded(path, size="tiny")
    return path


@pytest.fixture(scope="module")
def suno(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suno")
    build_seeded(path, size="tiny", layout="suno")
    return path


@pytest.fixture
def copy(hf: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(hf, tmp_path / "copy"))


def rewrite(path: Path, change: Callable[[State], State | None]) -> None:
    state = load_file(path / WEIGHTS)
    changed = change(state)
    save_file(state if changed is None else changed, path / WEIGHTS)


def configure(path: Path, name: str, section: str, **fields: object) -> None:
    """Set fields of a section of a JSON file; None removes one."""
    content = json.loads((path / name).read_text())
    target = content[section] if section else content
    for key, value in fields.items():
        target.pop(key, None)
        if value is not None:
            target[key] = value
    (path / name).write_text(json.dumps(content))


def assert_same_tensors(one: Path, other: Path) -> None:
    a, b = open_checkpoint(one), open_checkpoint(other)
    for stage in STAGES:
        assert a.names(stage) == b.names(stage)
        for name in a.names(stage):
            assert torch.equal(a.tensor(stage, name), b.tensor(stage, name)), (stage, name)


# ── transformers' layout ─────────────────────────────────────────────────────────────────────────
def test_weights_are_those_that_transformers_loads(hf: Path) -> None:
    from transformers import BarkModel

    model = BarkModel.from_pretrained(hf)
    ours = open_checkpoint(hf)
    theirs = {
        ("semantic", "token_embedding.weight"): model.semantic.input_embeds_layer.weight,
        ("semantic", "position_embedding.weight"): model.semantic.position_embeds_layer.weight,
        ("semantic", "layers.1.norm_1.weight"): model.semantic.layers[1].layernorm_1.weight,
        ("semantic", "layers.1.norm_2.weight"): model.semantic.layers[1].layernorm_2.weight,
        ("semantic", "layers.1.attention_in.weight"): model.semantic.layers[1].attn.att_proj.weight,
        ("semantic", "layers.1.attention_out.weight"): model.semantic.layers[
            1
        ].attn.out_proj.weight,
        ("semantic", "layers.1.mlp_in.weight"): model.semantic.layers[1].mlp.in_proj.weight,
        ("semantic", "layers.1.mlp_out.weight"): model.semantic.layers[1].mlp.out_proj.weight,
        ("semantic", "norm_final.weight"): model.semantic.layernorm_final.weight,
        ("semantic", "head.weight"): model.semantic.lm_head.weight,
        ("coarse", "head.weight"): model.coarse_acoustics.lm_head.weight,
        ("fine", "token_embeddings.7.weight"): model.fine_acoustics.input_embeds_layers[7].weight,
        ("fine", "heads.3.weight"): model.fine_acoustics.lm_heads[3].weight,
        ("fine", "layers.2.norm_1.bias"): model.fine_acoustics.layers[2].layernorm_1.bias,
        ("codec", "codebooks.5"): model.codec_model.quantizer.layers[5].codebook.embed,
    }
    decoder = model.codec_model.decoder
    for name in ours.names("codec"):
        if name.startswith("decoder."):
            value = decoder
            for part in name.removeprefix("decoder.").split("."):
                value = getattr(value, part)
            theirs["codec", name] = value
    assert len(theirs) > 50
    for (stage, name), value in theirs.items():
        torch.testing.assert_close(
            ours.tensor(stage, name),  # type: ignore[arg-type]
            value.detach(),
            rtol=1e-6,
            atol=1e-7,
        )


def test_numbers_come_from_the_configs(hf: Path) -> None:
    spec = open_checkpoint(locate("nano")).spec
    semantic, coarse = spec.semantic, spec.coarse
    assert (semantic.prompt_length, coarse.max_history, spec.fine.window) == (20, 240, 256)
    assert (spec.codebook_size, semantic.pad_id, coarse.infer_id) == (512, 2640, 3665)
    assert open_checkpoint(hf).spec == seeded_spec("tiny")


def test_absent_fields_are_sunos_or_read_off_the_tensors(hf: Path, copy: Path) -> None:
    (copy / "generation_config.json").write_text("{}")
    absent = dict.fromkeys(["input_vocab_size", "output_vocab_size", "bias", "block_size"])
    for section in ("semantic_config", "coarse_acoustics_config", "fine_acoustics_config"):
        configure(copy, "config.json", section, **absent, hidden_size=None, num_layers=None)
    configure(copy, "config.json", "codec_config", codebook_dim=None, use_causal_conv=None)
    assert open_checkpoint(copy).spec == open_checkpoint(hf).spec


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_float32(hf: Path, copy: Path, dtype: torch.dtype) -> None:
    rewrite(copy, lambda state: {key: value.to(dtype) for key, value in state.items()})
    name = "layers.0.mlp_in.weight"
    want = open_checkpoint(hf).tensor("fine", name).to(dtype).float()
    found = open_checkpoint(copy).tensor("fine", name)
    assert found.dtype == torch.float32
    assert torch.equal(found, want)
    # Folded in float32: rounding the folded weight would lose what the two parts still hold.
    state = load_file(copy / WEIGHTS)
    stem = "codec_model.decoder.layers.3.conv.parametrizations.weight.original"
    folded = torch._weight_norm(state[f"{stem}1"].float(), state[f"{stem}0"].float(), 0)
    conv = open_checkpoint(copy).tensor("codec", "decoder.layers.3.conv.weight")
    torch.testing.assert_close(conv, folded, rtol=1e-6, atol=0)


def test_older_weight_norm_keys_are_read(hf: Path, copy: Path) -> None:
    rewrite(
        copy,
        lambda state: {
            key.replace("parametrizations.weight.original0", "weight_g").replace(
                "parametrizations.weight.original1", "weight_v"
            ): value
            for key, value in state.items()
        },
    )
    assert_same_tensors(hf, copy)


def test_plain_convolution_weights_are_read(hf: Path, copy: Path) -> None:
    def fold(state: State) -> State:
        mark = ".parametrizations.weight.original0"
        for key in [key for key in state if key.endswith(mark)]:
            stem = key.removesuffix(mark)
            v = state.pop(f"{stem}.parametrizations.weight.original1")
            state[f"{stem}.weight"] = torch._weight_norm(v, state.pop(key), 0)
        return state

    rewrite(copy, fold)
    a, b = open_checkpoint(hf), open_checkpoint(copy)
    for name in a.names("codec"):
        torch.testing.assert_close(a.tensor("codec", name), b.tensor("codec", name))


def test_transposed_convolutions_are_normed_over_input_channels(hf: Path) -> None:
    state = load_file(hf / WEIGHTS)
    stem = "codec_model.decoder.layers.3.conv.parametrizations.weight.original"
    weight = open_checkpoint(hf).tensor("codec", "decoder.layers.3.conv.weight")
    assert weight.shape == (64, 32, 16)
    norms = weight.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, state[f"{stem}0"].flatten())


def test_causal_masks_are_skipped(hf: Path, copy: Path) -> None:
    def add_masks(state: State) -> None:
        mask = torch.ones(1, 1, 1024, 1024, dtype=torch.bool).tril()
        state["semantic.layers.0.attn.bias"] = mask
        state["coarse_acoustics.layers.1.attn.bias"] = mask.clone()

    rewrite(copy, add_masks)
    assert_same_tensors(hf, copy)


def test_linear_biases_are_honoured(copy: Path) -> None:
    def add_biases(state: State) -> None:
        for n in range(2):
            at = f"semantic.layers.{n}."
            for name, size in (("attn.att_proj", 96), ("attn.out_proj", 32)):
                state[f"{at}{name}.bias"] = torch.full((size,), float(n))
            for name, size in (("mlp.in_proj", 128), ("mlp.out_proj", 32)):
                state[f"{at}{name}.bias"] = torch.zeros(size)
            for name in ("layernorm_1", "layernorm_2"):
                state[f"{at}{name}.bias"] = torch.zeros(32)
        state["semantic.layernorm_final.bias"] = torch.zeros(32)

    rewrite(copy, add_biases)
    configure(copy, "config.json", "semantic_config", bias=True)
    checkpoint = open_checkpoint(copy)
    assert checkpoint.spec.semantic.gpt.has_bias
    assert not checkpoint.spec.coarse.gpt.has_bias
    assert checkpoint.tensor("semantic", "layers.1.attention_in.bias").tolist() == [1.0] * 96
    configure(copy, "config.json", "semantic_config", bias=None)
    assert open_checkpoint(copy).spec == checkpoint.spec


def test_untied_fine_heads_are_read(hf: Path, copy: Path) -> None:
    def untie(state: State) -> None:
        for i in range(7):
            state[f"fine_acoustics.lm_heads.{i}.weight"] = torch.full((1056, 32), float(i))

    tied = open_checkpoint(hf)
    table = tied.tensor("fine", "token_embeddings.5.weight")
    assert torch.equal(tied.tensor("fine", "heads.4.weight"), table)
    rewrite(copy, untie)
    assert open_checkpoint(copy).tensor("fine", "heads.4.weight").unique().tolist() == [4.0]


@pytest.mark.parametrize("kind", ["safetensors", "bin", "sharded safetensors", "sharded bin"])
def test_every_container_is_read(hf: Path, copy: Path, kind: str) -> None:
    state = load_file(copy / WEIGHTS)
    (copy / WEIGHTS).unlink()
    is_bin = kind.endswith("bin")
    stem, suffix = ("pytorch_model", "bin") if is_bin else ("model", "safetensors")
    save = torch.save if is_bin else save_file
    if kind.startswith("sharded"):
        keys = sorted(state)  # g and v of one convolution may lie in different files
        shards = {f"{stem}-0000{i + 1}-of-00002.{suffix}": keys[i::2] for i in range(2)}
        for name, part in shards.items():
            save({key: state[key] for key in part}, copy / name)
        weight_map = {key: name for name, part in shards.items() for key in part}
        index = copy / f"{stem}.{suffix}.index.json"
        index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    else:
        save(state, copy / f"{stem}.{suffix}")
    assert_same_tensors(hf, copy)


def test_safetensors_come_before_pickles(copy: Path) -> None:
    (copy / "pytorch_model.bin").write_bytes(b"never opened")
    open_checkpoint(copy)


# ── Suno's layout ────────────────────────────────────────────────────────────────────────────────
def test_suno_layout_gives_the_same_model(hf: Path, suno: Path) -> None:
    names = {file.name for file in suno.iterdir()}
    assert names == {"text.pt", "coarse.pt", "fine.pt", "encodec_seeded.th", "vocab.txt"}
    assert open_checkpoint(suno).layout == "suno"
    assert open_checkpoint(suno).spec == open_checkpoint(hf).spec
    assert_same_tensors(hf, suno)


def test_suno_files_have_sunos_own_keys(suno: Path) -> None:
    """The writer and the reader share one table; this is the table's proof."""
    keys = set(load_suno(suno / "fine.pt")["model"])
    assert {
        "_orig_mod.transformer.wtes.7.weight",
        "_orig_mod.transformer.wpe.weight",
        "_orig_mod.transformer.h.2.ln_1.bias",
        "_orig_mod.transformer.h.2.attn.c_attn.weight",
        "_orig_mod.transformer.h.2.attn.c_proj.weight",
        "_orig_mod.transformer.h.2.mlp.c_fc.weight",
        "_orig_mod.transformer.h.2.mlp.c_proj.weight",
        "_orig_mod.transformer.ln_f.weight",
        "_orig_mod.lm_heads.6.weight",
    } <= keys
    assert len(keys) == 8 + 1 + 3 * 8 + 2 + 7
    codec = set(torch.load(suno / "encodec_seeded.th", weights_only=True))
    assert {
        "decoder.model.0.conv.conv.weight_g",
        "decoder.model.1.lstm.bias_hh_l1",
        "decoder.model.3.convtr.convtr.weight_v",
        "decoder.model.13.block.3.conv.conv.bias",
        "decoder.model.13.shortcut.conv.conv.weight_v",
        "decoder.model.15.conv.conv.weight_v",
        "encoder.model.12.conv.conv.weight_v",
        "encoder.model.13.lstm.weight_ih_l0",
        "encoder.model.15.conv.conv.bias",
        "quantizer.vq.layers.7._codebook.embed_avg",
    } <= codec


def load_suno(path: Path) -> dict:
    return torch.load(path, weights_only=False)  # a file that this test has just written


def test_small_and_large_models_mix_and_large_ones_win(suno: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(suno, tmp_path / "mixed"))
    (path / "coarse.pt").rename(path / "coarse_2.pt")
    large = load_suno(path / "text.pt")
    large["model"]["_orig_mod.transformer.ln_f.weight"] = torch.full((32,), 7.0)
    torch.save(large, path / "text_2.pt")
    checkpoint = open_checkpoint(path)
    assert checkpoint.tensor("semantic", "norm_final.weight").unique().tolist() == [7.0]


def test_one_vocabulary_size_in_model_args_means_both(suno: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(suno, tmp_path / "old"))
    content = load_suno(path / "coarse.pt")
    args = content["model_args"]
    del args["input_vocab_size"], args["output_vocab_size"]
    args["vocab_size"] = 12_096
    torch.save(content, path / "coarse.pt")
    gpt = open_checkpoint(path).spec.coarse.gpt
    assert (gpt.input_vocab, gpt.output_vocab) == (12_096, 12_096)


@pytest.mark.parametrize("number", [np.float64(1.5), np.float32(1.5), np.int64(3)], ids=repr)
@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_numpy_scalars_of_both_generations_are_read(
    suno: Path, tmp_path: Path, number: np.generic, module: bytes
) -> None:
    """`best_val_loss` is a numpy number; numpy 1 and 2 pickle it under different names."""
    import zipfile

    path = Path(shutil.copytree(suno, tmp_path / "numpy"))
    content = load_suno(path / "fine.pt")
    content["best_val_loss"] = number
    torch.save(content, path / "fine.pt")
    with zipfile.ZipFile(path / "fine.pt") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    pickle_name = next(name for name in records if name.endswith("data.pkl"))
    assert b"numpy._core.multiarray" in records[pickle_name]
    records[pickle_name] = records[pickle_name].replace(b"numpy._core.multiarray", module)
    with zipfile.ZipFile(path / "fine.pt", "w") as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    assert open_checkpoint(path).spec.fine.num_codebooks == 8


def test_files_in_torchs_old_format_are_read(suno: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(suno, tmp_path / "legacy"))
    state = torch.load(path / "encodec_seeded.th", weights_only=True)
    torch.save(state, path / "encodec_seeded.th", _use_new_zipfile_serialization=False)
    assert_same_tensors(suno, path)


# ── memory, neighbours ───────────────────────────────────────────────────────────────────────────
def test_tensors_own_their_memory(hf: Path, suno: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(suno, tmp_path / "gone"))
    tensor = open_checkpoint(path).tensor("semantic", "token_embedding.weight")
    want = open_checkpoint(hf).tensor("semantic", "token_embedding.weight")
    with (path / "text.pt").open("r+b") as file:
        file.write(bytes((path / "text.pt").stat().st_size))
    assert torch.equal(tensor, want)
    assert tensor.untyped_storage().nbytes() == tensor.nbytes
    tensor.zero_()
    assert torch.equal(open_checkpoint(hf).tensor("semantic", "token_embedding.weight"), want)


_READ_ALL = """
import re, sys, pathlib
from pipeline.models.checkpoint import STAGES, open_checkpoint
# NOTE: not ru_maxrss, which a child inherits from the process that started it.
def peak_mb():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) / 1024
checkpoint, before = open_checkpoint(pathlib.Path(sys.argv[1])), peak_mb()
for stage in STAGES:
    for name in checkpoint.names(stage):
        checkpoint.tensor(stage, name)
print(peak_mb() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize(("weights", "limit_mb"), [(WEIGHTS, 60), ("pytorch_model.bin", 110)])
def test_reading_never_holds_much_of_a_file(
    hf: Path, tmp_path: Path, weights: str, limit_mb: float
) -> None:
    """A fine model of 12 layers, 160 MB in all, whose largest tensor has 17 MB."""
    path = Path(shutil.copytree(hf, tmp_path / "wide"))
    state = {k: v for k, v in load_file(path / WEIGHTS).items() if "fine_" not in k}
    at = "fine_acoustics."
    for i in range(8):
        state[f"{at}input_embeds_layers.{i}.weight"] = torch.zeros(1056, 512)
    state[f"{at}position_embeds_layer.weight"] = torch.zeros(1024, 512)
    for name in [f"layers.{n}.layernorm_{i}" for n in range(12) for i in (1, 2)] + [
        "layernorm_final"
    ]:
        state[f"{at}{name}.weight"] = state[f"{at}{name}.bias"] = torch.zeros(512)
    for n in range(12):
        state[f"{at}layers.{n}.attn.att_proj.weight"] = torch.zeros(1536, 512)
        state[f"{at}layers.{n}.attn.out_proj.weight"] = torch.zeros(512, 512)
        state[f"{at}layers.{n}.mlp.in_proj.weight"] = torch.zeros(2048, 512)
        state[f"{at}layers.{n}.mlp.out_proj.weight"] = torch.zeros(512, 2048)
    (path / WEIGHTS).unlink()
    save = save_file if weights == WEIGHTS else torch.save
    save({key: value.clone() for key, value in state.items()}, path / weights)
    configure(path, "config.json", "fine_acoustics_config", hidden_size=512, num_layers=12)
    total_mb = (path / weights).stat().st_size / 2**20
    run = subprocess.run(
        [sys.executable, "-c", _READ_ALL, str(path)], capture_output=True, text=True, check=True
    )
    assert total_mb > 150
    assert float(run.stdout) < limit_mb


def test_tokenizer_and_voices_are_found_beside_the_weights(copy: Path) -> None:
    assert open_checkpoint(copy).tokenizer_path == copy / "vocab.txt"
    assert open_checkpoint(copy).voices_path is None
    (copy / "vocab.txt").unlink()
    assert open_checkpoint(copy).tokenizer_path is None
    (copy / "tokenizer.json").write_text("{}")
    assert open_checkpoint(copy).tokenizer_path == copy / "tokenizer.json"
    (copy / "speaker_embeddings" / "v2").mkdir(parents=True)
    (copy / "speaker_embeddings" / "v2" / "en_speaker_6.npz").touch()
    assert open_checkpoint(copy).voices_path == copy / "speaker_embeddings"
    (copy / "speaker_embeddings_path.json").write_text("{}")
    assert open_checkpoint(copy).voices_path == copy
