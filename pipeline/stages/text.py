"""Text → `TextTokens`: normalise, cut into word pieces, shift into the semantic vocabulary, pad.

The first stage, and the only one without a network. Knows one segment of text at a time: how a
long text becomes segments is `segments.py`. Imports no torch.

Source: bark/generation.py `generate_text_semantic`, `_tokenize`, `_normalize_whitespace`
(suno-ai/bark f4f32d4), with the rules of BERT's multilingual *cased* tokenizer: nothing is
lower-cased, no accent is stripped, CJK characters and punctuation stand alone, a word of more
than 100 characters or without a spelling is [UNK].

NOTE: the Unicode tables that say what is punctuation are those of `tokenizers` (fixed by its
version), where Suno's follow the Python in use. About 120 assigned code points differ, all newer
than Unicode 8 and all [UNK] on both sides.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from pipeline.errors import InvalidCheckpoint, InvalidRequest, TextTooLong
from pipeline.payloads import TextTokens
from pipeline.spec import SemanticSpec

# Ours, not Bark's: about 23 minutes of English speech, five times what OpenAI's endpoint takes.
MAX_TEXT_CHARS: Final = 20_000

UNKNOWN: Final = "[UNK]"
# BERT's special tokens: spelt out in a text, each is its own id, as in the original.
SPECIAL_TOKENS: Final = (UNKNOWN, "[PAD]", "[CLS]", "[SEP]", "[MASK]")
MAX_WORD_CHARS: Final = 100  # BERT's `max_input_chars_per_word`

# What no text may hold: C0 and C1 controls that Python's `\s` does not match, and surrogates.
_FORBIDDEN = re.compile(r"(?!\s)[\x00-\x1f\x7f-\x9f]|[\ud800-\udfff]")


def check_text(text: str, max_chars: int = MAX_TEXT_CHARS) -> None:
    """Refuse a text that can not be spoken, before anything is spent on it.

    Raises:
        TextTooLong: more than `max_chars` characters.
        InvalidRequest: blank, or a control character or lone surrogate (named, with its index).
    """
    if len(text) > max_chars:
        raise TextTooLong(f"the text has {len(text):,} characters; the limit is {max_chars:,}")
    if found := _FORBIDDEN.search(text):
        code = ord(found.group())
        kind = "lone surrogate" if 0xD800 <= code <= 0xDFFF else "control character"
        raise InvalidRequest(
            f"the text holds the {kind} U+{code:04X} at index {found.start()}; remove it"
        )
    if not text.strip():
        raise InvalidRequest("the text is empty: there is nothing to say")


def normalize(text: str) -> str:
    r"""Compose to NFC, turn every run of white space into one space, strip.

    White space is Python's `\s`, so U+001C…U+001F and U+0085 part words as they do for Suno.
    NFC: the tokenizer that Suno loads does it too; without it a decomposed "ü" is [UNK].
    """
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).strip()


class TextStage:
    """A model's word pieces. Safe to share between threads.

    Args:
        vocab_path: a `vocab.txt`, a `tokenizer.json`, or a folder with either (the first wins).
            Only the vocabulary is read from it: the rules are always BERT's multilingual cased
            ones, since published Bark folders carry settings that say otherwise.
        spec: where the ids go in the semantic vocabulary, and how many fit.
        max_chars: longest text that is looked at.

    Raises:
        InvalidCheckpoint: no vocabulary there, or one that does not fit the model.
    """

    def __init__(
        self, vocab_path: Path, spec: SemanticSpec, *, max_chars: int = MAX_TEXT_CHARS
    ) -> None:
        vocab = read_vocab(vocab_path)
        _check_vocab(vocab, spec, vocab_path)
        self._spec = spec
        self._max_chars = max_chars
        self._unknown_id = vocab[UNKNOWN]
        self._tokenizer = _word_piece(vocab)

    def __call__(self, text: str) -> TextTokens:
        """Turn one segment into the text half of the semantic prompt.

        Pieces beyond the prompt's length are cut off and counted in `num_dropped`.
        `unknown_words` holds each word, as written, that became [UNK] among the kept pieces.

        Raises:
            TextTooLong, InvalidRequest: as `check_text`; also when nothing is left after
                tokenizing (zero-width characters alone). Suno goes on from an empty prompt there
                and babbles; nobody who sends such a text wants that.
        """
        check_text(text, self._max_chars)
        given, text = text, normalize(text)
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        pieces: list[int] = encoding.ids
        if not pieces:
            raise InvalidRequest("the text holds only invisible characters: nothing to say")
        spec = self._spec
        kept = pieces[: spec.prompt_length]
        ids = np.full(spec.prompt_length, spec.text_pad_id, np.int64)
        ids[: len(kept)] = np.asarray(kept, np.int64) + spec.text_offset
        words = (
            text[start:stop]
            for piece, (start, stop) in zip(kept, encoding.offsets, strict=False)
            if piece == self._unknown_id
        )
        unknown = dict.fromkeys(word for word in words if word != UNKNOWN)
        return TextTokens(ids, len(kept), len(pieces) - len(kept), tuple(unknown), given)

    def num_tokens(self, text: str) -> int:
        """Count a text's word pieces, none of them cut off; 0 for blank text.

        The text must hold no surrogates: see `check_text`.
        """
        return len(self._tokenizer.encode(normalize(text), add_special_tokens=False).ids)


def read_vocab(path: Path) -> dict[str, int]:
    """Read a vocabulary, word piece → id.

    Raises:
        InvalidCheckpoint: no such file, or not a WordPiece vocabulary.
    """
    if path.is_dir():
        found = [path / name for name in ("vocab.txt", "tokenizer.json") if (path / name).is_file()]
        if not found:
            raise InvalidCheckpoint(f"{path} has neither vocab.txt nor tokenizer.json")
        path = found[0]
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidCheckpoint(f"can not read the vocabulary {path}: {error}") from error
    if path.suffix != ".json":
        # Not splitlines(): the real vocabulary must not break at U+0085 and kin.
        return {piece: index for index, piece in enumerate(content.removesuffix("\n").split("\n"))}
    try:
        vocab = json.loads(content)["model"]["vocab"]
        return {str(piece): int(index) for piece, index in vocab.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidCheckpoint(f"{path} holds no WordPiece vocabulary") from error


def _check_vocab(vocab: Mapping[str, int], spec: SemanticSpec, path: Path) -> None:
    if UNKNOWN not in vocab:
        raise InvalidCheckpoint(f"the vocabulary {path} has no {UNKNOWN}")
    ids = {index + spec.text_offset for index in vocab.values()}
    if max(ids) >= spec.gpt.input_vocab or ids & {spec.text_pad_id, spec.infer_id}:
        raise InvalidCheckpoint(
            f"the vocabulary {path} has {len(vocab):,} pieces: too many for this model, whose "
            f"text ids are {spec.text_offset}…{spec.text_pad_id - 1}"
        )


def _word_piece(vocab: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(
        models.WordPiece(vocab, unk_token=UNKNOWN, max_input_chars_per_word=MAX_WORD_CHARS)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=False
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False) for token in SPECIAL_TOKENS if token in vocab]
    )
    return tokenizer
