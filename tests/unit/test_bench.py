import json
import sys
from dataclasses import asdict
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.bench.figures import (
    best_precision,
    clip_figures,
    middle,
    ratios,
    rounded,
    seconds_by_part,
)  # fmt: skip
from pipeline.bench.measure import ChildProcess, measure
from pipeline.bench.report import command, markdown, remarks
from pipeline.bench.sheets import sheets
from pipeline.bench.suites import SUITES, Settings, settings_of
from pipeline.bench.workload import Work, text
from pipeline.cli.app import app
from pipeline.errors import BarkError, InvalidRequest
from pipeline.spec import BarkSpec
from pipeline.stages.semantic import max_tokens

WORK = {
    "seconds": 10.0,
    "semantic_tokens": 499,
    "coarse_tokens": 1500,
    "frames": 750,
    "fine_windows": 1,
    "rate_hz": 49.9,
}
SECONDS = {"semantic": 20.0, "coarse": 60.0, "fine": 15.0, "codec": 1.0}
PROFILE = {
    "stage": "semantic",
    "queue_s": 0.0,
    "device_s": 1.0,
    "prefill_s": 0.1,
    "decode_s": 0.9,
    "tokens": 499,
    "steps": 498,
    "mean_batch": 1.0,
    "prefilled_positions": 257,
    "reused_positions": 0,
}
PHASES = {"semantic decode": {"steps": 10, "seconds": 0.04, "read_bytes": 1e8, "macs": 1e8}}


class RecordedChildren:
    """Answers as the children once did, and keeps what they were asked."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []

    def __call__(self, label: str, run: str, **arguments: Any) -> dict[str, Any]:
        self.jobs.append({"label": label, "run": run, **arguments})
        return {"others_busy_cores": 0.0, **self.answer(run, arguments)}

    def answer(self, run: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if run == "prepare":
            return {"path": "model", "device_class": "cpu-x", "work": WORK, "warm_up": WORK}
        if run == "ceilings":
            return {"read_gb_per_s": 25.0, "gemm_fp32_gmac_per_s": 100.0}
        total_s = {"fp32": 50.0, "bf16": 20.0, "int8": 10.0}[arguments.get("precision", "int8")]
        if run == "single":
            clip = clip_figures(WORK, SECONDS, total_s)
            return clip | {
                "first_audio_s": total_s,
                "peak_memory_bytes": int(total_s * 1e7),
                "profile": [PROFILE],
                "phases": PHASES,
                "runs_s": seconds_by_part([clip] * arguments["repeats"]),
            }
        if run == "concurrent":
            return {
                "levels": {str(n): many(n) for n in arguments["levels"]},
                "peak_memory_bytes": 7,
            }
        if run == "scaling":
            slots = {str(n): many(n) | {"cost_s": SECONDS} for n in arguments["slots"]}
            one = {"total_s": 9.0, "seconds": 10.0, "device_s": SECONDS}
            return {"slots": slots, "knee": 4, "settings": {"defaults": one}}
        assert run == "transformers"
        found = clip_figures(WORK, SECONDS, 100.0) | {"first_audio_s": 100.0}
        found |= {"precision": arguments["precision"], "peak_memory_bytes": 3_000_000_000}
        if rows := arguments["static_batch"]:
            found["static_batch"] = {"rows": rows, "total_s": 160.0, "audio_s_per_s": 0.5}
        return found


def many(level: int) -> dict[str, Any]:
    return {
        "total_s": 10.0 * level / 4,
        "audio_s_per_s": 4.0,
        "first_audio_s": 9.0,
        "last_audio_s": 20.0,
        "mean_batch": {"semantic": 7.9, "coarse": 7.5},
    }


def quiet(_: str) -> None: ...


@pytest.fixture
def report() -> dict[str, Any]:
    return measure(Settings(threads=2, static_batch=8), RecordedChildren(), quiet)


def test_ten_seconds_are_the_tokens_that_bark_makes_of_them() -> None:
    work = Work.plan(BarkSpec(), 10.0)
    assert (work.semantic_tokens, work.coarse_tokens, work.frames) == (499, 1500, 750)
    assert (work.fine_windows, work.seconds) == (1, 10.0)


@pytest.mark.parametrize("seconds", [0.05, 0.5, 1.0, 3.3, 10.0, 15.39])
def test_settings_of_a_clip_give_exactly_its_tokens(seconds: float) -> None:
    work = Work.plan(BarkSpec(), seconds)
    asked = work.semantic_fields
    assert asked["allow_early_stop"] is False
    assert max_tokens(asked["max_duration_s"], BarkSpec().semantic) == work.semantic_tokens


@pytest.mark.parametrize("seconds", [0.0, 0.001, 16.0])
def test_length_that_the_model_can_not_speak_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidRequest, match=r"0.05 to 15.3 s"):
        Work.plan(BarkSpec(), seconds)


def test_requests_have_different_texts() -> None:
    assert len({text(number) for number in range(50)}) == 50


def test_figures_follow_from_seconds() -> None:
    found = clip_figures(WORK, SECONDS, 100.0)
    assert found["real_time_factor"] == 10.0
    assert found["audio_s_per_s"] == 0.1
    assert found["semantic_tokens_per_s"] == pytest.approx(24.95)
    assert found["coarse_tokens_per_s"] == 25.0
    assert found["fine_s_per_window"] == 15.0


def test_middle_run_is_a_real_one() -> None:
    runs = [{"total_s": 3.0, "n": 1}, {"total_s": 1.0, "n": 2}, {"total_s": 2.0, "n": 3}]
    assert middle(runs) == {"total_s": 2.0, "n": 3}


def test_best_precision_is_the_fastest_that_was_asked_for() -> None:
    assert best_precision(("fp32", "bf16")) == "bf16"
    assert best_precision(("fp32", "int8", "bf16")) == "int8"


def test_ratios_compare_end_to_end() -> None:
    baseline = clip_figures(WORK, SECONDS, 100.0)
    baseline["static_batch"] = {"rows": 8, "audio_s_per_s": 0.5}
    ours = {"fp32": {"total_s": 50.0}, "int8": {"total_s": 10.0}}
    found = ratios(baseline, ours, {"1": many(1), "8": many(8)}, "int8")
    assert found == {
        "single": 10.0,
        "single_fp32": 2.0,
        "single_int8": 10.0,
        "concurrent_1": 40.0,
        "concurrent_8": 40.0,
        "concurrent_8_vs_static_batch": 8.0,
    }
    assert ratios(None, ours, {}, "int8") == {}


def test_floats_are_cut_to_what_they_mean() -> None:
    assert rounded({"a": [1.23456789, 3], "b": None, "c": (2e10,)}) == {
        "a": [1.23457, 3],
        "b": None,
        "c": [2e10],
    }


def test_report_has_every_part(report: dict[str, Any]) -> None:
    document = json.loads(json.dumps(report, allow_nan=False))
    assert {"cpu", "cores", "memory_bytes", "device"} <= set(document["hardware"])
    assert {"python", "torch", "transformers", "bark-serve", "commit"} == set(document["versions"])
    assert document["settings"]["best_precision"] == "int8"
    assert list(document["ours"]) == ["fp32", "bf16", "int8"]
    assert list(document["concurrency"]) == ["1", "8"]
    assert document["ratios"]["single"] == 10.0
    assert document["ratios"]["concurrent_8"] == 40.0
    assert set(document["peak_memory_bytes"]) == {
        "transformers", "fp32", "bf16", "int8", "int8_concurrent",
    }  # fmt: skip
    assert document["peak_memory_bytes"]["int8"] == 100_000_000
    assert "path" not in document["settings"]


def test_both_sides_get_the_same_checkpoint_and_clip() -> None:
    children = RecordedChildren()
    measure(Settings(precisions=("int8",)), children, quiet)
    measured = [job for job in children.jobs if job["run"] not in ("prepare", "ceilings")]
    assert [job["run"] for job in measured] == ["single", "concurrent", "transformers"]
    for job in measured:
        assert (job["path"], job["work"], job["warm_up"]) == ("model", WORK, WORK)


def test_slots_are_as_many_as_requests_at_once_unless_given() -> None:
    children = RecordedChildren()
    measure(Settings(concurrency=(4, 16)), children, quiet)
    measure(Settings(concurrency=(4, 16), slots=6), children, quiet)
    slots = [job["slots"] for job in children.jobs if job["run"] == "concurrent"]
    assert slots == [16, 6]


def test_without_transformers_there_are_no_ratios() -> None:
    children = RecordedChildren()
    found = measure(Settings(transformers=False), children, quiet)
    assert found["transformers"] is None
    assert found["ratios"] == {}
    assert "transformers" not in [job["run"] for job in children.jobs]
    assert markdown(found)


def test_tables_and_page_show_the_numbers(report: dict[str, Any]) -> None:
    clip, *rooflines, together = sheets(report)
    profiles = list(sheets(report, profile=True))[-3:]
    assert [row[0] for row in clip.rows] == [
        "transformers fp32", "ours fp32", "ours bf16", "ours int8",
    ]  # fmt: skip
    assert [row[-1] for row in clip.rows] == ["1.00", "2.00", "5.00", "10.00"]
    assert [row[0] for row in together.rows] == ["1", "8"]
    assert len(profiles) == 3
    assert [sheet.rows[0][-1] for sheet in rooflines] == ["1.00", "", ""]
    for sheet in (clip, together, *rooflines, *profiles):
        assert all(len(row) == len(sheet.columns) for row in sheet.rows)
    page = markdown(report)
    assert "bark-serve bench --suite transformers --threads 2 --static-batch 8" in page
    assert "concurrent_8 40.00" in page


def test_noise_of_others_is_told(report: dict[str, Any]) -> None:
    assert not any("NOT a quiet machine" in line for line in remarks(report))
    report["others_busy_cores"]["fp32"] = 1.3
    assert any("fp32 1.3" in line for line in remarks(report))


def repeated(settings: Settings) -> Settings:
    """Run the command of these settings as far as what it would measure."""
    asked: list[Settings] = []

    def stop(settings: Settings, *_: Any) -> None:
        asked.append(settings)
        raise InvalidRequest("far enough")

    words = command(asdict(settings)).split()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.bench.measure.measure", stop)
        CliRunner().invoke(app, words[1:])
    return asked[0]


@pytest.mark.parametrize("suite", SUITES)
def test_command_repeats_a_suite(suite: str) -> None:
    settings = settings_of(suite, threads=3)
    assert command(asdict(settings)) == f"bark-serve bench --suite {suite} --threads 3"
    assert repeated(settings) == settings


def test_command_repeats_what_differs_from_the_suite() -> None:
    settings = settings_of(
        "transformers", threads=2, slots=12, transformers_precision="bf16", seconds=2.5,
        precisions=("int8",), concurrency=(4, 16), static_batch=4, serve=True, model="nano",
    )  # fmt: skip
    assert repeated(settings) == settings
    assert repeated(alone := settings_of("full", threads=2, transformers=False)) == alone


def test_scaling_has_its_tables() -> None:
    found = measure(settings_of("scaling"), RecordedChildren(), quiet)
    assert [sheet.rows[0][0] for sheet in sheets(found)][-2:] == ["1", "defaults, 10 s"]
    assert markdown(found, pictures=["a-slots.png"]).count("![a-slots](a-slots.png)") == 1


def run_python(code: str, note: Any = quiet) -> dict[str, Any]:
    return ChildProcess(1, note).start("a thing", [sys.executable, "-c", code])


def test_child_answers_with_its_last_line_and_its_notes_are_passed_on() -> None:
    notes: list[str] = []
    code = "import sys; print('> half way', file=sys.stderr); print('noise'); print('{\"a\": 1}')"
    assert run_python(code, notes.append)["a"] == 1
    assert notes == ["  half way"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "raise ValueError('no such thing')",
            r"exit code 1\)(.|\n)*no such thing",
        ),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9, as the system does when"),
        ("print('no json')", "its last line is no JSON: no json"),
        ("pass", r"failed \(exit code 0\)"),
    ],
    ids=["traceback", "killed", "not-json", "silent"],
)
def test_failing_child_is_told_with_its_last_words(code: str, message: str) -> None:
    with pytest.raises(BarkError, match=message):
        run_python(code)


def test_child_that_refuses_its_job_is_a_wrong_request() -> None:
    with pytest.raises(InvalidRequest, match="no such device"):
        run_python("import sys; print('no such device', file=sys.stderr); sys.exit(2)")


def test_unknown_precision_is_refused_before_anything_runs() -> None:
    error = CliRunner().invoke(app, ["bench", "--precision", "int4"]).exception
    assert isinstance(error, InvalidRequest)
    assert "fp32, bf16, int8" in error.message


def test_unknown_suite_is_refused_before_anything_runs() -> None:
    error = CliRunner().invoke(app, ["bench", "--suite", "all"]).exception
    assert isinstance(error, InvalidRequest)
    assert "transformers, full, scaling" in error.message


def test_help_shows_examples() -> None:
    shown = CliRunner().invoke(app, ["bench", "--help"])
    assert shown.exit_code == 0
    assert "bark-serve bench --suite scaling" in shown.output
