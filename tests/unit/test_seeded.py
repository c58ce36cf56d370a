"""Random checkpoints are deterministic, load in transformers, and give lively logits and sound."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import BertWordPieceTokenizer

from pipeline.models.cache import publish_folder
from pipeline.models.checkpoint import open_checkpoint
from pipeline.models.encodec import CodecDecoder
from pipeline.models.seeded import build_seeded
from pipeline.models.sizes import seeded_spec
from pipeline.models.tensor_shapes import tensor_shapes


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("seeded") / "tiny"
    build_seeded(path, size="tiny")
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_transformers_finds_every_key_and_no_other(tiny: Path) -> None:
    from transformers import BarkModel

    model, report = BarkModel.from_pretrained(tiny, output_loading_info=True)
    missing = [key for key in report["missing_keys"] if not key.endswith(".attn.bias")]
    assert missing == []
    assert list(report["unexpected_keys"]) == []
    assert list(report["mismatched_keys"]) == []
    ids = torch.arange(300)[None]
    with torch.inference_mode():
        semantic = model.semantic(ids).logits
        coarse = model.coarse_acoustics(ids).logits
        fine = model.fine_acoustics(4, ids[..., None].expand(-1, -1, 8)).logits
    for logits in (semantic, coarse, fine):
        assert 1 < logits.std() < 6
        assert logits.softmax(-1).amax(-1).mean() < 0.9


def test_same_seed_gives_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    build_seeded(tmp_path / "again", size="tiny")
    build_seeded(tmp_path / "other", size="tiny", seed=1)
    weights = "model.safetensors"
    assert sha256(tmp_path / "again" / weights) == sha256(tiny / weights)
    assert sha256(tmp_path / "other" / weights) != sha256(tiny / weights)


@pytest.mark.parametrize(
    ("size", "semantic", "coarse", "fine"),
    [
        ("bark-small", 192_989_952, 104_319_744, 92_247_552),
        ("bark", 446_088_192, 327_861_248, 311_789_568),
    ],
)
def test_published_sizes_have_the_published_parameters(
    size: str, semantic: int, coarse: int, fine: int
) -> None:
    spec = seeded_spec(size)  # type: ignore[arg-type]
    shapes = tensor_shapes(spec)
    counts = {
        stage: sum(int(np.prod(shape)) for name, shape in named.items() if "heads" not in name)
        for stage, named in shapes.items()
    }
    assert (counts["semantic"], counts["coarse"], counts["fine"]) == (semantic, coarse, fine)
    assert len([name for name in shapes["codec"] if name.startswith("codebooks")]) == 32


@pytest.mark.parametrize("num_codebooks", [2, 8])
@pytest.mark.parametrize("num_frames", [1, 200])
def test_the_codec_makes_audible_unclipped_sound(
    tiny: Path, num_codebooks: int, num_frames: int
) -> None:
    checkpoint = open_checkpoint(tiny)
    decoder = CodecDecoder(
        lambda name: checkpoint.tensor("codec", name), checkpoint.spec.codec, torch.device("cpu")
    )
    codes = np.random.default_rng(0).integers(0, 1024, (num_codebooks, num_frames))
    samples = np.concatenate(list(decoder.decode(codes.astype(np.int32))))
    assert 0.01 < float(np.sqrt(np.mean(samples**2))) < 0.5
    assert float(np.abs(samples).max()) < 1
    if num_frames > 1:
        assert abs(float(samples.mean())) < 0.01


def test_vocabulary_spells_any_latin_text(tiny: Path) -> None:
    tokenizer = BertWordPieceTokenizer(str(tiny / "vocab.txt"), lowercase=False)
    text = "Hello, Wörld! Ça coûte 42€? [laughs] supercalifragilistic ♪ snake_case <b>"
    tokens = tokenizer.encode(text, add_special_tokens=False).tokens
    assert [token for token in tokens if token == "[UNK]"] == ["[UNK]"]  # the euro sign
    assert "laughs" in tokens
    assert tokenizer.token_to_id("[PAD]") == 0
    pieces = (tiny / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert len(pieces) == len(set(pieces))


def test_two_builders_at_once_share_one_folder(tmp_path: Path) -> None:
    together = threading.Barrier(2)

    def fill(draft: Path) -> None:
        (draft / "who").write_text(draft.name)
        together.wait(timeout=30)  # both have found nothing there

    target = tmp_path / "models" / "nano"
    with ThreadPoolExecutor(2) as pool:
        paths = [pool.submit(publish_folder, target, fill) for _ in range(2)]
        assert {path.result() for path in paths} == {target}
    assert [entry.name for entry in target.parent.iterdir()] == ["nano"]
    assert (target / "who").read_text().startswith(".nano-")


def test_an_interrupted_build_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.models.seeded.write_safetensors", break_off)
    with pytest.raises(KeyboardInterrupt):
        publish_folder(tmp_path / "models" / "x", lambda draft: build_seeded(draft, size="tiny"))
    assert list((tmp_path / "models").iterdir()) == []
