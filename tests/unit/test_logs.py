"""A log line is one JSON object that says where it comes from, and tells no text by itself."""

from __future__ import annotations

import json
import logging
import sys

from deployments.config import LogSection
from deployments.logs import formatter


def line(config: LogSection, **extra: object) -> str:
    record = logging.LogRecord("deployments.x", logging.INFO, "x.py", 1, "a %s", ("b\nc",), None)
    record.__dict__.update(extra)
    return formatter(config, "CoarseStage", "r1").format(record)


def test_a_line_is_one_object_with_its_origin_and_extras() -> None:
    text = line(LogSection(), request_id="q", device_seconds=0.5, voice=None)
    assert "\n" not in text
    found = json.loads(text)
    assert found.pop("time")
    assert found == {
        "level": "INFO",
        "logger": "deployments.x",
        "message": "a b\nc",
        "deployment": "CoarseStage",
        "replica": "r1",
        "request_id": "q",
        "device_seconds": 0.5,
        "voice": None,
    }


def test_an_exception_stays_in_its_line() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        text = line(LogSection(), exc_info=sys.exc_info())
    assert "\n" not in text
    assert "ValueError: no" in json.loads(text)["exc_info"]


def test_people_may_have_plain_text() -> None:
    assert "CoarseStage" in line(LogSection(encoding="text"))
    assert not line(LogSection(encoding="text")).startswith("{")
