"""Models at s3://, fetched from a real S3 server (SeaweedFS) that the test starts and stops."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError
from s3_server import READER, S3Server

from pipeline.errors import InvalidCheckpoint
from pipeline.models import bucket_model
from pipeline.models.locate import locate

FILES = {
    "config.json": b"{}",
    "generation_config.json": b"{}",
    "model.safetensors": b"weights" * 1000,
    "vocab.txt": b"[PAD]\n",
    "speaker_embeddings/v2/en_speaker_6_coarse_prompt.npy": b"npy",
}


@pytest.fixture
def bucket(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a client; the environment leads `locate` to the same server and an empty cache."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return s3.client()


@pytest.fixture
def prefix(bucket: Any, request: pytest.FixtureRequest) -> str:
    """Return a prefix that holds a model and other things."""
    name = f"{request.node.name}/bark"
    for key, content in (FILES | {"README.md": b"#", "logs/run.json": b"{}"}).items():
        bucket.put_object(Bucket="models", Key=f"{name}/{key}", Body=content)
    bucket.put_object(Bucket="models", Key=f"{name}-2/config.json", Body=b"another model")
    return name


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the files that are downloaded from here on."""
    seen: list[str] = []
    download = bucket_model._download

    def watch(client: Any, name: str, at: str, file: Any, *rest: Any) -> None:
        seen.append(file.name)
        download(client, name, at, file, *rest)

    monkeypatch.setattr(bucket_model, "_download", watch)
    return seen


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_model_is_mirrored_under_the_users_cache(prefix: str, tmp_path: Path) -> None:
    folder = locate(f"s3://models/{prefix}/")
    assert contents(folder) == FILES
    assert folder.is_relative_to(tmp_path / "cache" / "bark-serve")
    assert locate(f"s3://models/{prefix}", cache_dir=tmp_path / "b").is_relative_to(tmp_path / "b")


def test_only_changed_files_are_fetched_again(bucket: Any, prefix: str, fetched: list[str]) -> None:
    before = locate(f"s3://models/{prefix}")
    assert sorted(fetched) == sorted(FILES)
    fetched.clear()
    assert locate(f"s3://models/{prefix}") == before
    assert fetched == []
    bucket.put_object(Bucket="models", Key=f"{prefix}/vocab.txt", Body=b"[UNK]\n")  # same size
    bucket.delete_object(Bucket="models", Key=f"{prefix}/generation_config.json")
    after = locate(f"s3://models/{prefix}")
    assert fetched == ["vocab.txt"]
    assert set(FILES) - set(contents(after)) == {"generation_config.json"}
    assert contents(after)["vocab.txt"] == b"[UNK]\n"
    assert contents(before) == FILES  # who reads the old model goes on reading it


def test_a_broken_download_leaves_no_model_and_is_taken_up_again(
    prefix: str, fetched: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = bucket_model._download

    def break_off(client: Any, name: str, at: str, file: Any, *rest: Any) -> None:
        if file.name == "vocab.txt":
            raise OSError("the line is dead")
        watched(client, name, at, file, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(bucket_model, "_download", break_off)
        patch.setattr(bucket_model, "_NUM_STREAMS", 1)
        with pytest.raises(InvalidCheckpoint, match="the line is dead"):
            locate(f"s3://models/{prefix}")
    root = next((tmp_path / "cache" / "bark-serve" / "models" / "s3").iterdir())
    assert [entry.name for entry in root.iterdir()] == ["blobs"]
    fetched.clear()
    assert contents(locate(f"s3://models/{prefix}")) == FILES
    assert fetched == ["vocab.txt"]


def test_a_file_replaced_between_listing_and_reading_is_noticed(
    bucket: Any, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = bucket_model._list

    def replace_after(*arguments: Any) -> Any:
        files = listing(*arguments)
        bucket.put_object(Bucket="models", Key=f"{prefix}/vocab.txt", Body=b"changed")
        return files

    monkeypatch.setattr(bucket_model, "_list", replace_after)
    with pytest.raises(InvalidCheckpoint, match="changed while it was fetched"):
        locate(f"s3://models/{prefix}")


def test_the_last_copy_serves_without_the_bucket(
    prefix: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"s3://models/{prefix}"
    with pytest.raises(InvalidCheckpoint, match="no copy of"):
        locate(url, offline=True)
    folder = locate(url)

    class Dead:
        def get_paginator(self, _: str) -> Any:
            raise BotoCoreError

    monkeypatch.setattr(bucket_model, "_client", Dead)
    assert locate(url, offline=True) == folder
    assert caplog.records == []
    with caplog.at_level(logging.WARNING):
        assert locate(url) == folder
    assert "using the last copy" in caplog.text
    with pytest.raises(InvalidCheckpoint, match="could not be fetched"):
        locate(f"s3://models/{prefix}-2")


@pytest.mark.usefixtures("bucket")
def test_errors_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidCheckpoint, match="holds no model: expected"):
        locate("s3://models/nothing/here")
    with pytest.raises(InvalidCheckpoint, match="the bucket does not exist"):
        locate("s3://no-such-bucket/model")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER[1])
    with pytest.raises(InvalidCheckpoint, match=r"AccessDenied.*grant s3:ListBucket"):
        locate("s3://models/model")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(InvalidCheckpoint, match="set AWS_ACCESS_KEY_ID"):
        locate("s3://models/model")
