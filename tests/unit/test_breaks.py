"""Long text parts at the best places, in every language, and never inside what is one thing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from splitting import SENTENCES, split, without_space

from pipeline.speech_rate import estimate_seconds


@pytest.mark.parametrize("language", SENTENCES)
@pytest.mark.parametrize("is_named", [True, False], ids=["named", "guessed"])
def test_long_text_parts_at_sentences_in_every_language(language: str, is_named: bool) -> None:
    sentences = SENTENCES[language] * 12
    glue = "" if language in ("ja", "zh") else " "
    parts = split(glue.join(sentences), language=language if is_named else None)
    assert len(parts) > 1
    ends = {0}
    for sentence in sentences:
        ends.add(max(ends) + len(without_space(sentence)))
    done = 0
    for part in parts:
        done += len(without_space(part))
        assert done in ends, f"cut inside a sentence: …{part[-30:]!r}"


def test_over_long_sentence_parts_at_clauses() -> None:
    clause = "and then he went to the market to buy a horse"
    parts = split(f"{clause}, " * 9 + clause + ".")
    assert len(parts) > 1
    assert all(part.endswith((",", ".")) for part in parts)


def test_over_long_clause_parts_at_spaces() -> None:
    text = " ".join(["word"] * 200)
    parts = split(text)
    assert " ".join(parts) == text


def test_ideographs_part_anywhere_but_not_before_punctuation_or_inside_numbers() -> None:
    parts = split("今天我们去公园玩然后3.14回家吃饭「看电视」" * 12)
    assert len(parts) > 1
    assert not any(part.startswith(("」", ".", "14")) or part.endswith("「") for part in parts)
    assert "".join(parts).count("3.14") == sum(part.count("3.14") for part in parts)


def test_clause_marks_of_chinese_are_used() -> None:
    parts = split("今天我们去公园玩，然后回家吃饭、看电视，" * 10)
    assert all(part.endswith(("，", "、")) for part in parts)


@pytest.mark.parametrize(
    "cue",
    [
        "[laughs]",
        "[clears throat]",
        "♪ In the jungle, the mighty jungle. The lion sleeps tonight! ♪",
        "Dr. Smith",
        "3.14",
        "1,000,000",
        "12:30",
        "e.g. this",
        "MAN: Well",
    ],
)
@given(st.integers(0, 60))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_cues_and_numbers_stay_whole(cue: str, shift: int) -> None:
    words = ["word"] * 60
    words.insert(shift, cue)
    text = " ".join(words)
    parts = split(text)
    assert len(parts) > 1
    assert any(cue in part for part in parts)


def test_speaker_label_begins_a_segment() -> None:
    first = "and I said so, and meant it as well as one can mean such a thing, " * 2
    parts = split(f"MAN: Well, {first}WOMAN: Oh, is it so, my dear? I would have thought as much!")
    assert [part.split(":")[0] for part in parts] == ["MAN", "WOMAN"]


def test_song_longer_than_the_limits_parts_all_the_same() -> None:
    text = "♪ " + "la la la, " * 60 + "♪"
    parts = split(text)
    assert len(parts) > 1
    assert all(estimate_seconds(part) <= 13.0 for part in parts)
    assert parts[0].endswith("la,")


@pytest.mark.parametrize(
    ("text", "whole", "language"),
    [
        ("Oui. M. Dupont est là.", "M. Dupont", "fr"),
        ("Yes. 12. Twelfth item here.", "12. Twelfth", "en"),
        ("हाँ। डॉ. शर्मा आए हैं आज।", "डॉ. शर्मा", "hi"),
        ("See it. At example.org we are.", "example.org", "en"),
    ],
    ids=["initial", "list number", "Hindi title", "address"],
)
def test_false_sentence_ends_are_not_used(text: str, whole: str, language: str) -> None:
    for seconds in (1.2, 1.3, 1.5, 1.7, 2.0):
        assert any(whole in part for part in split(text, max_seconds=seconds, language=language))


def test_no_segment_begins_with_what_only_continues() -> None:
    parts = split("スーパーコンピューターっていいね" * 8, max_seconds=1.0)
    assert len(parts) > 10
    assert not any(part[0] in "ーュっ" for part in parts)


def test_lower_case_text_still_parts_at_its_full_stops() -> None:
    parts = split("hello there my friend. how are you today. i am fine myself. " * 8)
    assert len(parts) > 1
    assert all(part.endswith(".") for part in parts)


def test_white_space_beyond_ascii_does_not_upset_the_library(
    capfd: pytest.CaptureFixture[str],
) -> None:
    text = " A\u2028.… and so on." * 12  # sentencex 1.0.32 panics on it
    assert without_space("".join(split(text))) == without_space(text)
    assert "panicked" not in capfd.readouterr().err


def test_panic_in_the_library_costs_sentences_not_the_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class PanicException(BaseException):
        pass

    def panic(_code: str, _text: str) -> list[str]:
        raise PanicException

    monkeypatch.setattr("pipeline.breaks.sentencex.segment", panic)
    text = "One sentence, to begin with. And another one. " * 12
    assert " ".join(split(text)) == text.strip()


def test_interrupt_is_no_panic(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_code: str, _text: str) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.breaks.sentencex.segment", interrupt)
    with pytest.raises(KeyboardInterrupt):
        split("One sentence, to begin with. " * 30)


def test_flags_and_families_stay_whole() -> None:
    assert set("".join(split("🇩🇪🇫🇷" * 20, max_tokens=4)[0])) == set("🇩🇪🇫🇷")
    for part in split("🇩🇪" * 21, max_tokens=5):
        assert len(part) % 2 == 0
    for part in split("👨‍👩‍👧" * 20, max_tokens=11):
        assert (part[0], part[-1]) == ("👨", "👧")


def test_conjuncts_stay_whole_but_not_without_end() -> None:
    assert all(not part.startswith("त") for part in split("क्त" * 40, max_tokens=7))
    assert len(split("क्" * 2000)) > 10
