"""TextStage: Suno's text front end, exactly."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InvalidCheckpoint, InvalidRequest, TextTooLong
from pipeline.spec import GPTShape, SemanticSpec
from pipeline.stages.text import TextStage

SPEC = SemanticSpec()
SMALL_VOCAB = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", ".", "!", "[", "]", "♪", "3", "14"),
    *("hello", "Hello", "world", "lau", "##gh", "##s", "a", "b", "c", "x", "##x", "ü", "学", "生"),
]


def _shared() -> Path | None:
    root = Path(__file__).parents[2]
    named = os.environ.get("BARK_SHARED")
    for folder in [Path(named)] if named else [root / "shared", root.parent / "shared"]:
        if (folder / "data" / "bert-base-multilingual-cased" / "vocab.txt").is_file():
            return folder
    return None


SHARED = _shared()
needs_real_vocab = pytest.mark.skipif(
    SHARED is None, reason="no real vocabulary: set BARK_SHARED to the folder that holds data/"
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> TextStage:
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(SMALL_VOCAB) + "\n", encoding="utf-8")
    return TextStage(path, SPEC)


@pytest.fixture(scope="module")
def real() -> TextStage:
    assert SHARED is not None
    return TextStage(SHARED / "data" / "bert-base-multilingual-cased", SPEC)


def pieces(stage: TextStage, text: str) -> list[str]:
    tokens = stage(text)
    return [SMALL_VOCAB[i] for i in tokens.ids[: tokens.num_tokens] - SPEC.text_offset]


def test_ids_are_offset_and_padded_on_the_right(small: TextStage) -> None:
    tokens = small("hello world")
    assert tokens.ids.dtype == np.int64
    assert tokens.ids.shape == (256,)
    offset = SMALL_VOCAB.index("hello") + 10_048, SMALL_VOCAB.index("world") + 10_048
    assert tokens.ids.tolist() == [*offset, *[129_595] * 254]
    assert (tokens.num_tokens, tokens.num_dropped, tokens.unknown_words) == (2, 0, ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello,world!", ["Hello", ",", "world", "!"]),
        ("HELLO", ["[UNK]"]),  # cased
        ("[laughs]", ["[", "lau", "##gh", "##s", "]"]),
        ("学生", ["学", "生"]),
        ("u\u0308", ["ü"]),  # decomposed
        ("ü", ["ü"]),
        ("a\u200bx", ["a", "##x"]),  # zero-width characters join
        ("  a \t\n b\u3000c ", ["a", "b", "c"]),
        ("a\x1cb\x85c", ["a", "b", "c"]),  # white space for Python's \s alone
        ("3.14", ["3", ".", "14"]),
        ("a[SEP]b [MASK] [CLS][PAD]", ["a", "[SEP]", "b", "[MASK]", "[CLS]", "[PAD]"]),
        ("[sep]", ["[", "[UNK]", "]"]),
        ("x" * 100, ["x"] + ["##x"] * 99),
        ("x" * 101, ["[UNK]"]),
    ],
    ids=repr,
)
def test_word_pieces(small: TextStage, text: str, expected: list[str]) -> None:
    assert pieces(small, text) == expected
    assert small.num_tokens(text) == len(expected)


def test_pieces_beyond_the_prompt_are_cut_and_counted(small: TextStage) -> None:
    tokens = small("hello " * 255 + "a b c zzz")
    assert (tokens.num_tokens, tokens.num_dropped) == (256, 3)
    assert tokens.ids[255] == SMALL_VOCAB.index("a") + 10_048
    assert tokens.unknown_words == ()  # zzz was dropped, not unknown
    assert small.num_tokens("hello " * 300) == 300


def test_unknown_words_are_told_once_as_written(small: TextStage) -> None:
    tokens = small("hello Grüße 😀👍🏽 Grüße \u2014 [UNK] world")
    assert tokens.unknown_words == ("Grüße", "😀👍🏽", "\u2014")


@pytest.mark.parametrize("text", ["", " ", "\n\t\x1c\x85\u3000"], ids=repr)
def test_blank_text_is_refused(small: TextStage, text: str) -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        small(text)


def test_invisible_text_is_refused(small: TextStage) -> None:
    assert small.num_tokens("\u200b\ufeff") == 0
    with pytest.raises(InvalidRequest, match="invisible"):
        small("\u200b\ufeff")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ab\0c", "control character U\\+0000 at index 2"),
        ("\x1b[31m", "control character U\\+001B at index 0"),
        ("a\x7f", "control character U\\+007F at index 1"),
        ("  a\x9f", "control character U\\+009F at index 3"),
        ("a\ud83d", "lone surrogate U\\+D83D at index 1"),
    ],
)
def test_forbidden_characters_are_named(small: TextStage, text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        small(text)


def test_text_beyond_the_limit_is_refused(small: TextStage) -> None:
    assert small("a " * 10_000).num_dropped == 10_000 - 256
    with pytest.raises(TextTooLong, match="20,001 characters; the limit is 20,000"):
        small("a" * 20_001)


def test_vocabulary_is_found_in_a_folder_or_a_tokenizer_json(tmp_path: Path) -> None:
    vocab = {"[UNK]": 0, "a": 1, "b": 2}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}}))
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        assert TextStage(path, SPEC)("b").ids[0] == 10_048 + 2
    (tmp_path / "vocab.txt").write_text("[UNK]\nb\na\n")
    assert TextStage(tmp_path, SPEC)("b").ids[0] == 10_048 + 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.txt", b"a\nb\n", "no \\[UNK\\]"),
        ("vocab.txt", b"\xff\xfe", "can not read"),
        ("tokenizer.json", b"{}", "no WordPiece"),
        ("tokenizer.json", b"{", "no WordPiece"),
        ("readme.md", b"", "neither"),
    ],
)
def test_broken_vocabulary_is_explained(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidCheckpoint, match=message):
        TextStage(tmp_path, SPEC)


def test_vocabulary_that_overruns_the_pads_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[UNK]\na\nb\n")
    spec = SemanticSpec(text_offset=10, text_pad_id=12, infer_id=13, gpt=GPTShape(input_vocab=14))
    with pytest.raises(InvalidCheckpoint, match="too many for this model"):
        TextStage(tmp_path, spec)


@needs_real_vocab
def test_original_ids_are_reproduced(real: TextStage) -> None:
    assert SHARED is not None
    goldens = SHARED / "goldens"
    cases = json.loads((goldens / "manifest.json").read_text())["cases"]
    checked = 0
    for case in cases:
        if "bert_ids" not in case["arrays"]:
            continue
        with np.load(goldens / case["file"]) as arrays:
            expected = arrays["bert_ids"]
        tokens = real(case["text"])
        np.testing.assert_array_equal(tokens.ids[: tokens.num_tokens] - 10_048, expected)
        checked += 1
    assert checked


@needs_real_vocab
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("♪", [1873]),
        ("uh \u2014 and", [189, 10237, 100, 10111]),
        ("[laughs]", [164, 27207, 15774, 10107, 166]),
        ("[SEP][MASK] [CLS] [UNK] [PAD]", [102, 103, 101, 100, 0]),
        ("u\u0308ber", [10848]),
        ("😀", [100]),
    ],
)
def test_real_ids(real: TextStage, text: str, ids: list[int]) -> None:
    tokens = real(text)
    assert (tokens.ids[: tokens.num_tokens] - 10_048).tolist() == ids


# A second writing of BERT's rules, straight from its description, to check the library's.
def _reference_ids(text: str, vocab: dict[str, int]) -> list[int]:
    spaced = ""
    for char in unicodedata.normalize("NFC", text):
        category = unicodedata.category(char)
        if char.isspace():
            spaced += " "
        elif category[0] == "C" or char == "\ufffd":
            continue
        elif (
            category[0] == "P"
            or (ord(char) < 128 and not char.isalnum())
            or "\u4e00" <= char <= "\u9fff"
        ):
            spaced += f" {char} "
        else:
            spaced += char
    return [piece for word in spaced.split() for piece in _reference_word(word, vocab)]


def _reference_word(word: str, vocab: dict[str, int]) -> list[int]:
    ids: list[int] = []
    start = 0
    while start < len(word):
        prefix = "##" if start else ""
        stops = range(len(word), start, -1)
        stop = next((s for s in stops if prefix + word[start:s] in vocab), None)
        if stop is None or len(word) > 100:
            return [vocab["[UNK]"]]
        ids.append(vocab[prefix + word[start:stop]])
        start = stop
    return ids


@needs_real_vocab
@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.text(
        st.one_of(
            st.characters(max_codepoint=0x52F, exclude_categories=["Cc", "Cn", "Cs"]),
            st.sampled_from(
                list("学生你好なカ한국어हिन्दी…\u2014“”♪😀\u200b\u0301\ufffd\u3000 .,'")
            ),
        ),
        min_size=1,
        max_size=60,
    )
)
def test_every_text_tokenizes_by_berts_rules(text: str) -> None:
    assert SHARED is not None
    stage, vocab = _cached_real()
    expected = _reference_ids(text, vocab)
    if not expected or "[" in text:
        return
    tokens = stage(text)
    assert (tokens.ids[: tokens.num_tokens] - 10_048).tolist() == expected


_real: list[tuple[TextStage, dict[str, int]]] = []


def _cached_real() -> tuple[TextStage, dict[str, int]]:
    if not _real:
        assert SHARED is not None
        path = SHARED / "data" / "bert-base-multilingual-cased" / "vocab.txt"
        words = path.read_text(encoding="utf-8").split("\n")
        _real.append((TextStage(path, SPEC), {word: i for i, word in enumerate(words)}))
    return _real[0]
