"""A text's estimated time is that of calm reading."""

from __future__ import annotations

import pytest

from pipeline.speech_rate import estimate_seconds


def test_estimates_are_of_speaking_speed() -> None:
    english = "the quick brown fox jumps over the lazy dog and runs away into the deep dark woods"
    assert estimate_seconds(english) == pytest.approx(len(english.split()) / 150 * 60, rel=0.2)
    assert estimate_seconds("学" * 42) == pytest.approx(10)
    assert estimate_seconds("e\u0301") == estimate_seconds("é") == estimate_seconds("e")
    assert estimate_seconds("a  \n b") == estimate_seconds("a b")
    assert estimate_seconds("") == 0
