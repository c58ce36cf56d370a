"""What callers without this package send is checked; what it says comes through."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from deployments.wire import (
    check_keys,
    pack_call,
    pack_report,
    unpack_call,
    unpack_integers,
    unpack_report,
    unpack_settings,
)
from pipeline.errors import InvalidRequest
from pipeline.payloads import StageReport
from pipeline.request import CoarseSettings
from pipeline.stages.decoding import Call


def test_a_call_comes_through() -> None:
    call = Call(7, 3, time.monotonic() + 60)
    packed = pack_call({"text": "a"}, None, CoarseSettings(top_k=5), call, "digest")
    check_keys(packed, "text")
    back = unpack_call(packed)
    assert (back.seed, back.segment) == (7, 3)
    assert back.deadline_s == pytest.approx(call.deadline_s, abs=0.5)
    assert unpack_settings(CoarseSettings, packed["settings"]) == CoarseSettings(top_k=5)
    assert unpack_call({"text": "a"}) == Call(0)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ("text", "must be a dict, not str"),
        ({"text": "a", "sed": 1}, "unknown keys sed; known: .*seed"),
        ({"seed": 1}, "needs 'text'"),
    ],
)
def test_keys_are_checked(request_: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        check_keys(request_, "text")


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, "7"])
def test_seeds_are_checked(seed: Any) -> None:
    with pytest.raises(InvalidRequest, match="seed must be"):
        unpack_call({"seed": seed})


@pytest.mark.parametrize("settings", [{"temprature": 1}, {"temperature": -1}, 5, "x"])
def test_settings_are_checked(settings: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^settings"):
        unpack_settings(CoarseSettings, settings)


@pytest.mark.parametrize(
    "value",
    [[1.5], [[1]], [-1], [10], ["a"], None, [[1], [2, 3]]],
    ids=["fractions", "rank", "negative", "large", "text", "none", "ragged"],
)
def test_ids_are_checked(value: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^ids"):
        unpack_integers(value, "ids", 1, 10)


def test_ids_of_any_integer_type_come_through() -> None:
    for kind in (np.uint16, np.int32, np.int64):
        assert unpack_integers(np.array([0, 9], kind), "ids", 1, 10).dtype == np.int64


def test_a_report_comes_through() -> None:
    report = StageReport("fine", 0.5, 1.5, tokens=7)
    assert unpack_report(pack_report(report)) == report
