"""Long text becomes segments within the limits, and loses nothing but white space."""

from __future__ import annotations

import re
import time
import unicodedata
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from splitting import SILENT, count_tokens, split, without_space

from pipeline.breaks import grapheme_starts
from pipeline.errors import InvalidRequest, TextTooLong
from pipeline.segments import Segment, longest_segment_s, plan_segments
from pipeline.spec import BarkSpec, SemanticSpec
from pipeline.speech_rate import estimate_seconds


@pytest.mark.parametrize(
    "text",
    [
        "Hello.",
        "  Two sentences.\n\nIn two   paragraphs. \t",
        "Dr. Smith paid $3.14! [laughs] ♪ La la. ♪",
        "今日は。元気ですか?",
    ],
)
def test_text_within_the_limits_stays_exactly_as_it_was(text: str) -> None:
    assert split(text) == [text]


@pytest.mark.parametrize("text", ["", "  \n\t "], ids=repr)
def test_blank_text_has_no_segments(text: str) -> None:
    assert split(text) == []


# ── properties ───────────────────────────────────────────────────────────────────────────────────
ALPHABET = list(
    "abcAB .!?,;:\n\t\r'\"()[]«»“”。！？、「」…\u2014-123\u0301\u200b\u200d♪क्ि한국어學生かなｶﾞ"
)
PARTS = [
    "Dr.",
    "e.g.",
    "1. ",
    "\n\n",
    "[laughs]",
    "👍🏽",
    "👨‍👩‍👧",
    "🇩🇪",
    "word ",
    "x" * 30,
    "MAN: ",
]
TEXTS = st.one_of(
    st.lists(st.sampled_from(ALPHABET + PARTS), max_size=150).map("".join),
    st.lists(st.sampled_from(PARTS), min_size=20, max_size=60).map("".join),
    st.text(max_size=120),
)


def is_one_cluster(text: str) -> bool:
    text = re.sub(rf"^(?:\s|{SILENT.pattern})+|(?:\s|{SILENT.pattern})+$", "", text)
    return not any(True for _ in grapheme_starts(text))


@settings(max_examples=250, deadline=None, derandomize=True)
@given(TEXTS, st.integers(1, 40), st.floats(0.2, 6.0))
@example("a" * 500, 3, 0.5)
@example("學" * 200, 7, 1.0)
@example("\u200b" * 50 + "word " * 40, 5, 1.0)
@example("1\n\n\u0301", 1, 0.25)
@example("[" + "a" * 58 + "]\u0301" * 3, 12, 4.0)
def test_nothing_is_lost_and_the_limits_hold(
    text: str, max_tokens: int, max_seconds: float
) -> None:
    parts = split(text, max_tokens, max_seconds)
    assert without_space("".join(parts)) == without_space(text)
    if len(parts) == 1:
        assert parts[0] in (text, text.strip())
    for part in parts:
        assert part.strip()
        within = count_tokens(part) <= max_tokens and estimate_seconds(part) <= max_seconds + 1e-6
        assert within or is_one_cluster(part), part
    assert parts == split(text, max_tokens, max_seconds)
    if count_tokens(text):
        assert all(count_tokens(part) for part in parts)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(TEXTS, st.integers(1, 20))
def test_combining_sequences_are_never_cut(text: str, max_tokens: int) -> None:
    text = re.sub(r"\s+", "", text)  # marks after white space have no base
    for part in split(text, max_tokens)[1:]:
        assert unicodedata.category(part[0]) not in ("Mn", "Mc", "Me", "Cf")
        assert not "\U0001f3fb" <= part[0] <= "\U0001f3ff"


@pytest.mark.parametrize(
    "unit",
    ["学", "a", "!", "a\n", "♪ a ", "[", "“", "a\u200b \u200b ", "\ufffd ", "क्", " \n", "A: "],
)
def test_hostile_text_is_split_in_seconds(unit: str) -> None:
    started = time.process_time()
    parts = split((unit * 20_000)[:20_000] + "b")
    assert time.process_time() - started < 10  # 0.01–1 s here; quadratic steps took 10 and more
    assert parts


# ── whole requests ───────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Turn:
    text: str
    voice: str | None = None


def plan(*turns: Turn, max_chars: int = 20_000) -> list[Segment]:
    return plan_segments(turns, count_tokens=count_tokens, max_tokens=256, max_chars=max_chars)


def test_turns_are_split_each_on_its_own() -> None:
    long = "This is a sentence of about fifty characters, all told. " * 6
    planned = plan(Turn("Hello!", "v2/en_speaker_6"), Turn(long, "announcer"), Turn("Bye."))
    assert [s.index for s in planned] == list(range(len(planned)))
    assert [s.turn for s in planned] == [0, *[1] * (len(planned) - 2), 2]
    assert {s.voice for s in planned if s.turn == 1} == {"announcer"}
    assert planned[0].text == "Hello!"
    assert planned[-1] == Segment(len(planned) - 1, 2, "Bye.", None)


SENTENCE = "This is a sentence of about fifty characters, all told."


@pytest.mark.parametrize(
    ("text", "opening"),
    [
        (f"The first one is here, and it is short. {SENTENCE} " * 8, 39),
        (f"No. {SENTENCE} {SENTENCE} " * 8, len(f"No. {SENTENCE}")),
        (f"Oh! No! {SENTENCE} " * 8, len(f"Oh! No! {SENTENCE}")),
        ("word " * 200, None),  # no sentence to part it at
    ],
    ids=["sentence", "interjection", "two of them", "none"],
)
def test_a_long_text_opens_with_its_first_sentence(text: str, opening: int | None) -> None:
    planned, whole = plan(Turn(text)), split(text)
    assert len(whole) > 1
    if opening is None:
        assert [s.text for s in planned] == whole
        return
    assert planned[0].text == text[:opening]
    assert f"{planned[0].text} {planned[1].text}" == whole[0]
    assert [s.text for s in planned[2:]] == whole[1:]


def test_a_text_of_one_segment_is_not_opened() -> None:
    assert [s.text for s in plan(Turn(f"{SENTENCE} {SENTENCE}"))] == [f"{SENTENCE} {SENTENCE}"]


@pytest.mark.parametrize(
    ("turns", "error", "message"),
    [
        ([], InvalidRequest, "no text"),
        ([Turn(" ")], InvalidRequest, "^the text is empty"),
        ([Turn("a"), Turn("b\0")], InvalidRequest, "^turn 2: .*U\\+0000 at index 1"),
        ([Turn("a"), Turn("\u200b")], InvalidRequest, "^turn 2: .*invisible"),
        ([Turn("a" * 60), Turn("b" * 41)], TextTooLong, "101 characters; the limit is 100"),
    ],
    ids=["no turns", "blank", "control character", "invisible", "too long together"],
)
def test_bad_text_is_refused_before_anything_is_split(
    turns: list[Turn], error: type[InvalidRequest], message: str
) -> None:
    with pytest.raises(error, match=message):
        plan(*turns, max_chars=100)


def test_a_model_that_stops_sooner_gets_shorter_segments() -> None:
    assert longest_segment_s(BarkSpec().semantic) == 13.0
    five_seconds = SemanticSpec(max_new_tokens=250)
    longest_s = longest_segment_s(five_seconds)
    assert longest_s < 250 / five_seconds.rate_hz
    planned = plan_segments(
        [Turn("This is a sentence of about fifty characters, all told. " * 3)],
        count_tokens=count_tokens,
        max_tokens=256,
        max_seconds=longest_s,
    )
    assert len(planned) == 3
