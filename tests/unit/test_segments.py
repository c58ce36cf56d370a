"""Long text becomes segments within the limits, and loses nothing but white space."""

from __future__ import annotations

import re
import time
import unicodedata
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline import segments
from pipeline.errors import InvalidRequest, TextTooLong
from pipeline.segments import estimate_seconds, guess_language, plan_segments, split_text

SILENT = re.compile(r"[\u200b-\u200f\u0300-\u036f]")


def count_tokens(text: str) -> int:
    """Count about as word pieces do: five letters a piece, every other character one."""
    text = SILENT.sub("", text)
    return sum(-(-len(run) // 5) for run in re.findall(r"[a-zA-Z]+|[^\sa-zA-Z]", text))


def split(
    text: str, max_tokens: int = 256, max_seconds: float = 13.0, language: str | None = None
) -> list[str]:
    return split_text(
        text,
        count_tokens=count_tokens,
        max_tokens=max_tokens,
        max_seconds=max_seconds,
        language=language,
    )


def without_space(text: str) -> str:
    return "".join(text.split())


# ── short text ───────────────────────────────────────────────────────────────────────────────────
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


# ── where it parts ───────────────────────────────────────────────────────────────────────────────
# language, sentences: the same three or four, repeated, must part at their ends alone
SENTENCES = {
    "en": ["Mr. and Mrs. Jones came at 5 p.m. on Monday.", "It cost $3.14!", "Did J. R. R. know?"],
    "de": ["Dr. Müller kam am 3. Mai an.", "Das war z. B. sehr früh.", "Warum denn das?"],
    "es": ["El Sr. Gómez llegó a las 5.", "¿Dónde estabas?", "La Dra. Pérez no vino."],
    "fr": ["Mme Durand, p. ex., n'est pas venue !", "Où étiez-vous ?", "M. Dupont est là."],
    "hi": ["मैं घर जा रहा हूँ।", "तुम कहाँ हो?", "डॉ. शर्मा आए।"],
    "it": ["Il sig. Rossi è arrivato.", "Dov'eri?", "Il dott. Bianchi non c'era!"],
    "ja": ["私は学生です。", "あなたは誰ですか?", "円周率は3.14です。", "すごい!"],
    "ko": ["안녕하세요.", "어디에 있었어요?", "원주율은 3.14입니다."],
    "pl": ["Dr Nowak przyszedł.", "Gdzie byłeś?", "Prof. Kowalski, np. wczoraj, nie przyszedł!"],
    "pt": ["O Sr. Silva chegou.", "Onde você estava?", "A Dra. Costa não veio!"],
    "ru": ["Доктор Иванов пришёл.", "Где ты был?", "А. С. Пушкин писал стихи!"],
    "tr": ["Dr. Yılmaz geldi.", "Neredeydin?", "Prof. Kaya gelmedi!"],
    "zh": ["我是学生。", "你在哪里?", "太好了!"],
}


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


def test_over_long_sentence_parts_at_clauses() -> None:
    clause = "and then he went to the market to buy a horse"
    parts = split(f"{clause}, " * 9 + clause + ".")
    assert len(parts) > 1
    assert all(part.endswith((",", ".")) for part in parts)


def test_over_long_clause_parts_at_spaces() -> None:
    text = " ".join(["word"] * 200)
    parts = split(text)
    assert " ".join(parts) == text


def test_endless_word_parts_in_even_pieces() -> None:
    parts = split("a" * 5000)
    assert "".join(parts) == "a" * 5000
    assert len(parts) == 27  # 345 s
    assert min(map(len, parts)) > 150


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


@pytest.mark.parametrize("first", [2, 3])
def test_paragraphs_come_first(first: int) -> None:
    sentences = ["This is a sentence of four seconds, spoken as it should be."] * 5
    one, two = " ".join(sentences[:first]), " ".join(sentences[first:])
    assert split(f"{one}\n\n{two}") == [one, two]


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

    monkeypatch.setattr("pipeline.segments.sentencex.segment", panic)
    text = "One sentence, to begin with. And another one. " * 12
    assert " ".join(split(text)) == text.strip()


def test_interrupt_is_no_panic(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_code: str, _text: str) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.segments.sentencex.segment", interrupt)
    with pytest.raises(KeyboardInterrupt):
        split("One sentence, to begin with. " * 30)


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
    return not any(True for _ in segments._graphemes(text))


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


def test_flags_and_families_stay_whole() -> None:
    assert set("".join(split("🇩🇪🇫🇷" * 20, max_tokens=4)[0])) == set("🇩🇪🇫🇷")
    for part in split("🇩🇪" * 21, max_tokens=5):
        assert len(part) % 2 == 0
    for part in split("👨‍👩‍👧" * 20, max_tokens=11):
        assert (part[0], part[-1]) == ("👨", "👧")


def test_conjuncts_stay_whole_but_not_without_end() -> None:
    assert all(not part.startswith("त") for part in split("क्त" * 40, max_tokens=7))
    assert len(split("क्" * 2000)) > 10


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(["ab", "cd.", "ef,", "g"]), min_size=2, max_size=60))
def test_counts_that_do_not_add_up_still_keep_the_limit(words: list[str]) -> None:
    def superadditive(text: str) -> int:
        return 1 + len(text) ** 2 // 10

    parts = split_text(" ".join(words), count_tokens=superadditive, max_tokens=9)
    assert all(superadditive(part) <= 9 for part in parts)


@pytest.mark.parametrize(
    "unit",
    ["学", "a", "!", "a\n", "♪ a ", "[", "“", "a\u200b \u200b ", "\ufffd ", "क्", " \n", "A: "],
)
def test_hostile_text_is_split_in_seconds(unit: str) -> None:
    started = time.process_time()
    parts = split((unit * 20_000)[:20_000] + "b")
    assert time.process_time() - started < 10  # 0.01–1 s here; quadratic steps took 10 and more
    assert parts


# ── the estimate, the language ───────────────────────────────────────────────────────────────────
def test_estimates_are_of_speaking_speed() -> None:
    english = "the quick brown fox jumps over the lazy dog and runs away into the deep dark woods"
    assert estimate_seconds(english) == pytest.approx(len(english.split()) / 150 * 60, rel=0.2)
    assert estimate_seconds("学" * 42) == pytest.approx(10)
    assert estimate_seconds("e\u0301") == estimate_seconds("é") == estimate_seconds("e")
    assert estimate_seconds("a  \n b") == estimate_seconds("a b")
    assert estimate_seconds("") == 0


@pytest.mark.parametrize("language", SENTENCES)
def test_language_is_guessed(language: str) -> None:
    text = {"tr": "Bu çok güzel bir gün.", "pl": "To nie jest prawda."}.get(language)
    text = text or " ".join(SENTENCES[language])
    assert guess_language(text) == language


def test_language_of_no_letters_is_english() -> None:
    assert guess_language("123 ...") == "en"
    assert guess_language("A word from Москва and one from 北京, said the old man.") == "en"


# ── whole requests ───────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Turn:
    text: str
    voice: str | None = None


def plan(*turns: Turn, max_chars: int = 20_000) -> list[segments.Segment]:
    return plan_segments(turns, count_tokens=count_tokens, max_tokens=256, max_chars=max_chars)


def test_turns_are_split_each_on_its_own() -> None:
    long = "This is a sentence of about fifty characters, all told. " * 6
    planned = plan(Turn("Hello!", "v2/en_speaker_6"), Turn(long, "announcer"), Turn("Bye."))
    assert [s.index for s in planned] == list(range(len(planned)))
    assert [s.turn for s in planned] == [0, *[1] * (len(planned) - 2), 2]
    assert {s.voice for s in planned if s.turn == 1} == {"announcer"}
    assert planned[0].text == "Hello!"
    assert planned[-1] == segments.Segment(len(planned) - 1, 2, "Bye.", None)


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
