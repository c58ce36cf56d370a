"""`bark-serve fetch`: what runs on a node before anything loads the model there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from s3_server import S3Server

from pipeline.cli.fetch import fetch
from pipeline.errors import InvalidCheckpoint, InvalidRequest
from pipeline.models.checkpoint import open_checkpoint
from pipeline.models.locate import locate

NANO = locate("nano")
DIGEST = open_checkpoint(NANO).digest


@pytest.fixture
def bucket(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the address of nano's files in a real bucket."""
    for file in NANO.rglob("*"):
        if file.is_file():
            key = f"nano/{file.relative_to(NANO).as_posix()}"
            s3.client().put_object(Bucket="models", Key=key, Body=file.read_bytes())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return "s3://models/nano"


def test_a_model_is_fetched_into_the_cache_and_checked(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch(bucket, digest=DIGEST, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["digest"] == DIGEST
    assert Path(told["folder"]).is_relative_to(tmp_path / "cache")
    # whoever loads it afterwards finds the same folder
    assert locate(bucket, offline=True) == Path(told["folder"])


def test_another_model_than_the_one_meant_is_refused(bucket: str, s3: S3Server) -> None:
    s3.client().put_object(Bucket="models", Key="nano/model.safetensors", Body=_one_bit_off())
    with pytest.raises(InvalidCheckpoint, match=f"its digest is .*, not {DIGEST}"):
        fetch(bucket, digest=DIGEST)


def test_a_digest_that_is_none_is_a_mistake_in_the_command() -> None:
    with pytest.raises(InvalidRequest, match="64 hex digits"):
        fetch("nano", digest=DIGEST[:12])


def _one_bit_off() -> bytes:
    data = bytearray((NANO / "model.safetensors").read_bytes())
    data[-1] ^= 1
    return bytes(data)
