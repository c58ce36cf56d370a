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
    assert report["concurrency"]["2"]["mean_batch"]["coarse"] > 1


def test_json_alone_is_one_line(tmp_path: Path) -> None:
    done = bench(
        tmp_path, "--seconds", "0.2", "-p", "int8", "--concurrency", "1",
        "--skip-transformers", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ratios"] == {}
    assert done.stdout.count("\n") == 1
    assert "ours, int8" in done.stderr


def test_impossible_length_is_refused_at_once(tmp_path: Path) -> None:
    done = bench(tmp_path, "--seconds", "99", "--skip-transformers")
    assert done.returncode == 2
    assert "0.05 to 15.3 s" in done.stderr
    assert not done.stdout
