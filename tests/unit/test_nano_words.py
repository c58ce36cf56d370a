"""nano's vocabulary: what is promised is in it, and nothing else is passed over in silence."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pipeline.stages.text import TextStage
from training.nano.held_out import all_held_out, fingerprint, held_out
from training.nano.pieces import pieces
from training.nano.recogniser import accuracy, edits
from training.nano.shape import nano_spec
from training.nano.words import (
    DAYS,
    MONTHS,
    PHRASES,
    number,
    random_text,
    spelt_out,
    split_words,
    vocabulary,
)


@pytest.fixture(scope="module")
def text_stage(tmp_path_factory: pytest.TempPathFactory) -> TextStage:
    path = tmp_path_factory.mktemp("nano") / "vocab.txt"
    path.write_text("\n".join(pieces()[0]) + "\n", encoding="utf-8")
    return TextStage(path, nano_spec(55).semantic)


def test_vocabulary_holds_what_is_promised() -> None:
    known = set(vocabulary())
    assert len(known) >= 300
    assert len(PHRASES) >= 12
    said = [*DAYS, *MONTHS, *(number(n) for n in range(1001)), *PHRASES]
    assert {word for text in said for word in split_words(text)} <= known


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (99, "ninety-nine"),
        (100, "one hundred"),
        (407, "four hundred and seven"),
        (1000, "one thousand"),
    ],
)
def test_numbers_are_spelt(value: int, words: str) -> None:
    assert number(value) == words


@pytest.mark.parametrize("change", [str.lower, str.capitalize, str.upper])
def test_every_word_is_one_piece_in_any_case(text_stage: TextStage, change: object) -> None:
    for word in vocabulary():
        assert text_stage(change(word)).num_tokens == 1, word  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("xylograph", 9),
        ("Xylograph", 9),
        ("BRK", 3),
        ("42", 2),
        ("Café", 4),
        ("brk is", 4),
    ],
)
def test_unknown_words_are_spelt(text_stage: TextStage, text: str, letters: int) -> None:
    tokens = text_stage(text)
    assert tokens.num_tokens == letters
    assert tokens.unknown_words == ()


def test_what_can_not_be_spelt_is_announced(text_stage: TextStage) -> None:
    assert text_stage("Hello (学) €").unknown_words == ("(", "学", ")", "€")


def test_copies_point_at_trained_rows() -> None:
    names, rows = pieces()
    assert len(names) == len(set(names)) == len(rows)
    assert all(rows[row] == row for row in rows)
    trained = {name: rows[i] for i, name in enumerate(names)}
    assert trained["Hello"] == trained["HELLO"] == trained["hello"]
    assert trained["7"] == trained["##7"] == trained["seven"]
    assert trained["##É"] == trained["##e"] != trained["e"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("I know a dog.", ["=I", "= ", "=know", "= ", "=a", "= ", "=dog", "=."]),
        ("A B", ["A", "= ", "B"]),
        ("my brk", ["=my", "= ", "B", "R", "K"]),
        ("I'm K", ["=I'm", "= ", "K"]),
    ],
)
def test_the_teacher_spells_what_nano_will_spell(text: str, parts: list[str]) -> None:
    assert spelt_out(text) == parts


def test_a_seed_decides_the_texts() -> None:
    first, again = ([random_text(random.Random("s")) for _ in range(3)] for _ in range(2))
    assert first == again
    assert random_text(random.Random("t")) != first[0]


def test_held_out_texts_are_apart() -> None:
    for kind in ("digits", "words"):
        dev, test = ({fingerprint(t) for t in held_out(s, kind)} for s in ("dev", "test"))
        assert len(dev | test) > 150
        assert dev | test <= all_held_out()
        assert held_out("test", kind, 20) == held_out("test", kind)[:20]


@pytest.mark.parametrize(
    ("said", "heard", "count"),
    [("one two", "one two", 0), ("one two", "two", 1), ("one", "one one", 1), ("one", "two", 1)],
)
def test_edits_are_counted_in_words(said: str, heard: str, count: int) -> None:
    assert edits(said.split(), heard.split()) == count


def test_accuracy_is_one_minus_edits_a_word() -> None:
    assert accuracy(["One, two.", "Three four"], [["one", "two"], ["three"]]) == 0.75


def test_no_file_of_the_vocabulary_is_needed_to_speak() -> None:
    """What runs must not import what trains."""
    import pipeline

    root = Path(pipeline.__file__).parent
    assert not [p for p in root.rglob("*.py") if "import training" in p.read_text()]
