"""What `bark-serve bulk` refuses, and what it finds done, before Ray is started."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.bulk.command import read_config
from pipeline.cli.app import app
from pipeline.errors import BarkError, InvalidRequest


def refused(*arguments: str) -> BarkError:
    found = CliRunner().invoke(app, ["bulk", *arguments])
    assert isinstance(found.exception, BarkError), found.output
    return found.exception


def test_two_rows_of_one_id_stop_the_job_before_it_begins(tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"id": "a", "text": "one"}\n{"id": "a", "text": "two"}\n')
    error = refused("-i", str(prompts), "-o", str(tmp_path / "out"))
    assert "rows 1 and 2 have the same id, 'a'" in error.message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-i", "none.jsonl"], "none.jsonl: "),
        (["-i", "prompts.txt"], "ends in .jsonl"),
        (["-i", "p.jsonl", "--precision", "fp8"], "model.precision"),
        (["-i", "p.jsonl", "--config", "none.yaml"], "can not read none.yaml"),
        (["-i", "p.jsonl", "--manifest", "a/b"], "a name, not a path"),
        (["-i", "p.jsonl", "--model", "no/model"], "no/model"),
    ],
)
def test_wrong_usage_is_told(tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("p.jsonl").write_text('{"text": "one"}\n')
    assert says in refused(*arguments, "-o", "out").message


def test_the_config_of_the_service_is_the_jobs_as_well(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = read_config(Path(__file__).parents[2] / "serve_config.yaml", "out", {}, 7)
    assert config.voices.aliases["alloy"] == "heart"
    assert config.store.url == str(tmp_path / "out")
    assert config.bulk.max_in_flight == 7
    assert read_config(None, "s3://b/p", {"name": "x"}).store.url == "s3://b/p"
    with pytest.raises(InvalidRequest, match=r"model\.precision"):
        read_config(None, "out", {"precision": "fp8"})
