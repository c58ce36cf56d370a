"""A model's name becomes a folder, or an error that lists what a name can be."""

from __future__ import annotations

from pathlib import Path

import pytest

import pipeline.models
from pipeline.errors import InvalidCheckpoint
from pipeline.models.cache import cache_folder
from pipeline.models.locate import locate


def test_a_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert locate(str(tmp_path)) == tmp_path
    monkeypatch.chdir(tmp_path)
    assert locate("owner/name") == Path("owner/name")  # before the hub is asked
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~/owner") == tmp_path / "owner"


def test_nano_comes_with_the_package() -> None:
    path = locate("nano")
    assert path.parent == Path(pipeline.models.__file__).parent
    assert (path / "model.safetensors").is_file()


def test_cache_folder_is_under_home_without_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/.cache/bark-serve")


@pytest.mark.parametrize(
    "name", ["", "bark", "./nowhere", "../nowhere/name", "/nowhere/name", "a/b/c", "http://x/y"]
)
def test_anything_else_is_answered_with_the_forms(name: str) -> None:
    with pytest.raises(InvalidCheckpoint, match=r"`nano`, a folder, `owner/name`.*s3://bucket"):
        locate(name)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(InvalidCheckpoint, match="is a file"):
        locate(str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("name", ["nano", "s3://bucket/model", "."])
def test_only_hub_models_have_revisions(name: str) -> None:
    with pytest.raises(InvalidCheckpoint, match="only models on the Hugging Face hub"):
        locate(name, revision="main")


def test_s3_without_a_bucket_is_refused() -> None:
    with pytest.raises(InvalidCheckpoint, match="s3://bucket/prefix"):
        locate("s3:///prefix")
