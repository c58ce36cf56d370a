"""Where a text may part, and how well: paragraphs, sentences, clauses, spaces, letters.

Sentences are found by `sentencex` (Wikimedia): rules and abbreviation lists for all of Bark's 13
languages, no model and no download. Knows no limits; `packing.py` chooses among the breaks.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum

import sentencex


class Break(IntEnum):
    """What a position parts, best first."""

    PARAGRAPH = 0
    SENTENCE = 1
    CLAUSE = 2
    WORD = 3
    ABBREVIATION = 4  # a space after "Dr.", "z. B.", a list's "1."
    IDEOGRAPH = 5
    GRAPHEME = 6
    WHOLE = 7  # inside a cue


_CLOSERS = r"[\"'”’»›）)\]」』】]*+"
# NOTE: possessive quantifiers and look-behinds keep these linear on 20,000 equal characters.
_PARAGRAPH = re.compile(r"(?<!\s)\s*\n\s*\n\s*")
_CLAUSE = re.compile(
    rf"(?:[,;:،؛–]|(?<![!?])[!?]++|\s-++){_CLOSERS}\s+"
    rf"|(?:--+|[—…，；：、。！？।｡､]+){_CLOSERS}\s*"
    r"|(?<!\s)\s*\n\s*"
)
_SPACE = re.compile(r"(\.?)\s+")
# What must stay whole: a cue, a sung line, a speaker's label with its first letter.
_LABEL = re.compile(r"\b[A-Z]{2,20}(?: [A-Z]{2,20}){0,2}:\s+\S")
_WHOLE = re.compile(rf"\[[^\[\]]{{1,60}}\]|♪[^♪]*♪|{_LABEL.pattern}")
# Ends that `sentencex` may take for a sentence's: an initial, a list's number, Hindi's "डॉ."
# (Hindi sentences end in a danda).
_ABBREVIATION = re.compile(r"(?:^|[\s(])(?:[^\W\d_]|\d{1,3}|[\u0900-\u097f]{1,3})\.\s*$")
_IDEOGRAPH = re.compile(r"[\u1100-\u11ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff]")
_NEVER_FIRST = "、。，．！？：；）」』】〉》”’…‥ーぁぃぅぇぉっゃゅょァィゥェォッャュョ々,.!?:;)]}%"
_NEVER_LAST = "（「『【〈《“‘([{$"


def find_breaks(text: str, language: str, fits: Callable[[int, int], bool]) -> dict[int, Break]:
    """Find every position where a piece may begin, and what a break before it parts.

    Args:
        language: ISO 639 code, for abbreviations; a region after it is ignored.
        fits: whether text[start:stop] is within the limits: only such cues stay whole.

    Returns:
        Positions in ascending order, none where nothing but white space stands on one side.
    """
    starts = list(grapheme_starts(text))
    breaks: dict[int, Break] = {}
    for position, kind in _candidates(text, language, starts):
        breaks.setdefault(position, kind)  # the first decides
    for match in _WHOLE.finditer(text):
        if fits(match.start(), match.end()):
            for position in range(match.start() + 1, match.end()):
                if position in breaks:
                    breaks[position] = Break.WHOLE
    # Only where something stands on both sides, and never between a base and its marks.
    first, last = len(text) - len(text.lstrip()), len(text.rstrip())
    return {p: breaks[p] for p in starts if p in breaks and first < p < last}


def _candidates(text: str, language: str, starts: Sequence[int]) -> Iterator[tuple[int, Break]]:
    """Yield breaks, the most telling of a position first."""
    for match in _LABEL.finditer(text):
        yield match.start(), Break.SENTENCE
    for match in _PARAGRAPH.finditer(text):
        yield match.end(), Break.PARAGRAPH
    for start, stop in _sentences(text, language):
        yield stop, _after_sentence(text[start:stop], text[stop : stop + 1])
    for match in _CLAUSE.finditer(text):
        yield match.end(), Break.CLAUSE
    for match in _SPACE.finditer(text):
        yield match.end(), Break.ABBREVIATION if match[1] else Break.WORD
    for position in starts:
        before, after = text[position - 1], text[position]
        if not after.isspace():  # a piece begins with what follows
            yield position, _between_characters(before, after)


def _after_sentence(sentence: str, following: str) -> Break:
    if _ABBREVIATION.search(sentence):
        return Break.ABBREVIATION
    if sentence.endswith("."):
        return Break.CLAUSE  # no space: "said so.Then", rarely "notes.Txt"
    # "т.е. иначе", "vb. kişiler"; but people write without capitals, too.
    return Break.CLAUSE if following.islower() else Break.SENTENCE


def _between_characters(before: str, after: str) -> Break:
    is_ideograph = _IDEOGRAPH.match(before) or _IDEOGRAPH.match(after)
    is_good = is_ideograph and after not in _NEVER_FIRST and before not in _NEVER_LAST
    return Break.IDEOGRAPH if is_good else Break.GRAPHEME


def _sentences(text: str, language: str) -> Iterator[tuple[int, int]]:
    """Yield each sentence's start and stop, white space after it included."""
    code = language.replace("_", "-").split("-")[0].lower()
    # NOTE: sentencex 1.0 panics where white space beyond ASCII follows an initial; with plain
    # spaces, 400,000 random strings of its favourite characters made no panic.
    plain = re.sub(r"[^\S\n]", " ", text)
    try:
        sentences: list[str] = sentencex.segment(code, plain)
    except BaseException as error:  # a panic in Rust derives from nothing closer
        if type(error).__name__ != "PanicException":
            raise
        sentences = [plain]
    start = end = 0
    for sentence in sentences:
        end += len(sentence)
        stop = len(text) - len(text[end:].lstrip())
        if stop > start:
            yield start, stop
            start = stop


def grapheme_starts(text: str) -> Iterator[int]:
    """Yield the positions where a combining sequence begins, but the first (after UAX 29)."""
    flags = length = 0
    for position, char in enumerate(text):
        before = text[position - 1] if position else ""
        is_flag = "\U0001f1e6" <= char <= "\U0001f1ff"
        flags = flags + 1 if is_flag else 0
        joined = (
            unicodedata.category(char) in ("Mn", "Mc", "Me", "Cf")
            or "\U0001f3fb" <= char <= "\U0001f3ff"  # skin tones
            or "\u1160" <= char <= "\u11ff"  # vowels and finals of Hangul
            or char in "\uff9e\uff9f"  # half-width voicing marks
            or (is_flag and flags % 2 == 0)
            or before == "\u200d"
            # A virama joins consonants: four or five in earnest, without end in an attack.
            or (length < 30 and before and unicodedata.combining(before) == 9)
        )
        length = length + 1 if joined else 1
        # A mark after white space has no base to be kept with.
        if position and (not joined or before.isspace()):
            yield position
