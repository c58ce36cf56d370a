"""Segments are few and of like length, and keep the limits however pieces are counted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from splitting import split

from pipeline.segments import split_text
from pipeline.speech_rate import estimate_seconds


def test_segments_are_few_and_of_like_length() -> None:
    text = " ".join(["This is a sentence of fifty-odd characters in all."] * 16)
    parts = split(text)
    seconds = [estimate_seconds(part) for part in parts]
    assert len(parts) == 6  # 56 s; three sentences a segment: five would need more than three
    assert min(seconds) > 0.6 * max(seconds)


def test_a_last_word_is_not_left_alone() -> None:
    sentence = (
        "Here is a sentence that takes six and some seconds to say, or very nearly so, as I think."
    )
    assert 6.0 < estimate_seconds(sentence) < 6.5
    parts = split(f"{sentence} {sentence} Yes, I do think so.")
    assert parts == [sentence, f"{sentence} Yes, I do think so."]


@pytest.mark.parametrize("first", [2, 3])
def test_paragraphs_come_first(first: int) -> None:
    sentences = ["This is a sentence of four seconds, spoken as it should be."] * 5
    one, two = " ".join(sentences[:first]), " ".join(sentences[first:])
    assert split(f"{one}\n\n{two}") == [one, two]


def test_endless_word_parts_in_even_pieces() -> None:
    parts = split("a" * 5000)
    assert "".join(parts) == "a" * 5000
    assert len(parts) == 27  # 345 s
    assert min(map(len, parts)) > 150


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(["ab", "cd.", "ef,", "g"]), min_size=2, max_size=60))
def test_counts_that_do_not_add_up_still_keep_the_limit(words: list[str]) -> None:
    def superadditive(text: str) -> int:
        return 1 + len(text) ** 2 // 10

    parts = split_text(" ".join(words), count_tokens=superadditive, max_tokens=9)
    assert all(superadditive(part) <= 9 for part in parts)
