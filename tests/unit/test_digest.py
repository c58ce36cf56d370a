"""A model's digest follows the content that decides its output, and is computed once."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from pipeline.models import digest
from pipeline.models.checkpoint import open_checkpoint
from pipeline.models.seeded import build_seeded


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build_seeded(tmp_path / "model", size="tiny")
    return tmp_path / "model"


def test_digest_is_the_hash_of_names_sizes_and_contents(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"two")
    (tmp_path / "a").write_bytes(b"one!")
    lines = [
        f"{name}\0{len(content)}\0{hashlib.sha256(content).hexdigest()}\n"
        for name, content in (("a", b"one!"), ("b", b"two"))
    ]
    want = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert digest.digest_of(tmp_path, [tmp_path / "b", tmp_path / "a"]) == want


def test_digest_does_not_depend_on_the_place(model: Path, tmp_path: Path) -> None:
    elsewhere = Path(shutil.copytree(model, tmp_path / "elsewhere"))
    assert open_checkpoint(elsewhere).digest == open_checkpoint(model).digest


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "generation_config.json", "vocab.txt"]
)
def test_every_deciding_file_counts(model: Path, name: str) -> None:
    before = open_checkpoint(model).digest
    content = bytearray((model / name).read_bytes())
    content[-1:] = b"\0" if name.endswith("safetensors") else b" \n"
    (model / name).write_bytes(content)
    assert open_checkpoint(model).digest != before


def test_other_files_do_not_count(model: Path) -> None:
    before = open_checkpoint(model).digest
    (model / "README.md").write_text("hello")
    assert open_checkpoint(model).digest == before


def test_files_are_hashed_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_checkpoint(model).digest

    def refuse(*_: object) -> None:
        raise AssertionError("hashed again")

    monkeypatch.setattr(hashlib, "file_digest", refuse)
    assert open_checkpoint(model).digest == before
    os.utime(model / "vocab.txt", ns=(1, 1))
    with pytest.raises(AssertionError, match="hashed again"):
        _ = open_checkpoint(model).digest


def test_a_broken_or_read_only_cache_does_no_harm(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_checkpoint(model).digest
    for entry in (tmp_path / "cache").rglob("*.json"):
        entry.write_text("not JSON")
    assert open_checkpoint(model).digest == before
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert open_checkpoint(model).digest == before
