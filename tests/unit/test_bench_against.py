import copy
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.bench.against import changes, check_comparable, earlier_report, settings_then
from pipeline.errors import InvalidRequest

HARDWARE = {"cpu": "a", "cores": 2, "threads": 2, "memory_bytes": 1, "device": "d", "system": "s"}
SETTINGS = {
    "suite": "serve", "size": "bark-small", "model": None, "work": {"seconds": 10.0},
    "precisions": ["int8"], "concurrency": [8], "serve": True, "scaling": [], "repeats": 3,
    "threads": 2, "best_precision": "int8",
}  # fmt: skip


def report(*totals: float) -> dict[str, Any]:
    runs = [dict.fromkeys(("semantic", "coarse", "fine", "codec", "total"), s) for s in totals]
    return {
        "hardware": dict(HARDWARE),
        "versions": {"commit": "abc"},
        "settings": SETTINGS | {"repeats": len(totals)},
        "ours": {"int8": {"runs_s": runs}},
        "transformers": None,
    }


def test_change_beyond_the_noise_is_told() -> None:
    found = {c.part: c for c in changes(report(5.0, 5.1, 5.2), report(10.0, 10.2, 10.4))}
    assert found["total"].ratio == pytest.approx(0.5, rel=0.02)
    assert found["total"].noise == pytest.approx(1.04)
    assert found["total"].verdict == "faster"
    assert next(changes(report(12.0, 12.0, 12.0), report(10.0, 10.0, 10.0))).verdict == "slower"


def test_change_within_the_noise_of_either_side_is_none() -> None:
    calm, noisy = report(10.0, 10.0, 10.0), report(10.0, 11.0, 12.0)
    assert {c.verdict for c in changes(noisy, calm)} == {"same"}
    assert {c.verdict for c in changes(calm, noisy)} == {"same"}


@pytest.mark.parametrize("key", ["cpu", "threads", "memory_bytes", "device"])
def test_other_hardware_is_refused(key: str) -> None:
    other = report(1.0, 1.0, 1.0)
    other["hardware"][key] = "other"
    with pytest.raises(InvalidRequest, match=f"hardware.{key} is .* here and other"):
        check_comparable(report(1.0, 1.0, 1.0), then=other)


def test_other_work_and_too_few_repeats_are_refused() -> None:
    then = report(1.0, 1.0, 1.0)
    check_comparable(copy.deepcopy(then), then=then)
    shorter = copy.deepcopy(then)
    shorter["settings"]["work"] = {"seconds": 2.0}
    with pytest.raises(InvalidRequest, match=r"settings.work"):
        check_comparable(shorter, then=then)
    with pytest.raises(InvalidRequest, match="the earlier report has too few repeats"):
        check_comparable(then, then=report(1.0))


def test_it_measures_as_the_earlier_report_did_and_only_single_requests() -> None:
    settings = settings_then(report(1.0, 1.0, 1.0), {"repeats": 5, "size": None})
    assert (settings.size, settings.repeats, settings.precisions) == ("bark-small", 5, ("int8",))
    assert (settings.concurrency, settings.serve, settings.scaling) == ((), False, ())


@pytest.mark.parametrize("content", [None, "no json", "[]", '{"ours": {}}'])
def test_what_is_no_report_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "then.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InvalidRequest, match="bark-serve bench --repeats 3 --output"):
        earlier_report(path)
    path.write_text(json.dumps(report(1.0)))
    assert earlier_report(path)["ours"]
