import json
import os
import subprocess
import sys
from pathlib import Path


def bench(home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", "bench", "--size", "tiny", *options],
        env=os.environ | {"XDG_CACHE_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_last_line_is_the_whole_result(tmp_path: Path) -> None:
    page, kept = tmp_path / "results.md", tmp_path / "results.json"
    done = bench(
        tmp_path, "--seconds", "0.4", "--precision", "int8", "--concurrency", "2",
        "--static-batch", "2", "--profile", "--output", str(kept), "--markdown", str(page),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "transformers fp32" in done.stdout
    report = json.loads(done.stdout.splitlines()[-1])
    assert json.loads(kept.read_text()) == report
    assert str(tmp_path) not in done.stdout + page.read_text()
    ratios = report["ratios"]
    assert set(ratios) == {
        "single", "single_int8", "concurrent_2", "concurrent_2_vs_static_batch",
    }  # fmt: skip
    assert all(ratio > 0 for ratio in ratios.values())
    assert set(report["peak_memory_bytes"]) == {"int8", "int8_concurrent", "transformers"}
    assert all(size > 50e6 for size in report["peak_memory_bytes"].values())
    stages = {stage["stage"]: stage for stage in report["ours"]["int8"]["profile"]}
    assert stages["semantic"]["tokens"] == report["settings"]["work"]["semantic_tokens"]
    together = report["concurrency"]["2"]
    assert together["mean_batch"]["coarse"] > 1
    # the stages one after the other, and not much between them and the whole
    assert 0 < sum(together["stage_s"].values()) <= together["total_s"]


def test_scaling_is_measured_and_drawn(tmp_path: Path) -> None:
    page = tmp_path / "scaling.md"
    done = bench(
        tmp_path, "--suite", "scaling", "--seconds", "0.2", "--json",
        "--plots", str(tmp_path), "--markdown", str(page),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    report = json.loads(done.stdout)
    assert report["ratios"] == {}
    assert list(report["scaling"]["slots"]) == ["1", "2", "4", "8", "16"]
    assert report["scaling"]["slots"]["16"]["mean_batch"]["coarse"] > 8
    assert "voice of 15 s" in report["scaling"]["settings"]
    for name in ("roofline", "slots", "cost", "settings"):
        picture = tmp_path / f"scaling-{name}.png"
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert f"]({picture.name})" in page.read_text()


def test_an_earlier_report_is_compared_with_stage_by_stage(tmp_path: Path) -> None:
    then, alike = tmp_path / "then.json", ("--seconds", "0.2", "-p", "int8", "--skip-transformers")
    first = bench(tmp_path, *alike, "--concurrency", "1", "--repeats", "3", "--output", str(then))
    assert first.returncode == 0, first.stderr
    done = bench(tmp_path, "--against", str(then))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert [change["part"] for change in report["against"]] == [
        "semantic", "coarse", "fine", "codec", "total",
    ]  # fmt: skip
    assert "now over then" in done.stdout
    elsewhere = json.loads(then.read_text())
    elsewhere["hardware"]["cpu"] = "another"
    then.write_text(json.dumps(elsewhere))
    refused = bench(tmp_path, "--against", str(then))
    assert refused.returncode == 2
    assert "hardware.cpu is" in refused.stderr
    assert "one request" not in refused.stderr, "refused after it had measured"


def test_impossible_length_is_refused_at_once(tmp_path: Path) -> None:
    done = bench(tmp_path, "--seconds", "99", "--skip-transformers")
    assert done.returncode == 2
    assert "0.05 to 15.3 s" in done.stderr
    assert not done.stdout
