"""Long text → segments that the semantic stage can say in one go.

Bark speaks at most 256 word pieces and 15.4 seconds at a time, and rambles near that end. So a
long text becomes segments of whole sentences; a sentence that is still too long parts at clause
marks, then at spaces, then between ideographs, and only then inside a word. A text within the
limits stays one segment, exactly as it was written: that is the original's behaviour.

Sentences are found by `sentencex` (Wikimedia): rules and abbreviation lists for all of Bark's 13
languages, no model and no download. Knows no tokenizer: word pieces are counted by a function
that the caller hands in.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Final, Protocol

import sentencex

from pipeline.errors import InvalidRequest, TextTooLong
from pipeline.stages.text import MAX_TEXT_CHARS, check_text

# Bark stops dead at 15.39 s (768 semantic tokens); the margin is for slow voices and pauses.
MAX_SEGMENT_S: Final = 13.0


class Turn(Protocol):
    """What one speaker says; `voice` names a preset, None is no preset."""

    @property
    def text(self) -> str: ...
    @property
    def voice(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Segment:
    """One call of the semantic stage: `index` counts through the request, `turn` through turns."""

    index: int
    turn: int
    text: str
    voice: str | None = None


def plan_segments(
    turns: Sequence[Turn],
    *,
    count_tokens: Callable[[str], int],
    max_tokens: int,
    max_seconds: float = MAX_SEGMENT_S,
    language: str | None = None,
    max_chars: int = MAX_TEXT_CHARS,
) -> list[Segment]:
    """Check a whole request's text and split it, each turn on its own.

    The other arguments are those of `split_text`.

    Args:
        turns: at least one.
        max_chars: limit on all turns together.

    Raises:
        TextTooLong, InvalidRequest: as `check_text`, naming the turn when there are several; also
            for no turns, and for a text of invisible characters alone.
    """
    if not turns:
        raise InvalidRequest("the request holds no text")
    total = sum(len(turn.text) for turn in turns)
    if total > max_chars:
        raise TextTooLong(f"the text has {total:,} characters; the limit is {max_chars:,}")
    segments: list[Segment] = []
    for number, turn in enumerate(turns):
        where = f"turn {number + 1}: " if len(turns) > 1 else ""
        try:
            check_text(turn.text, max_chars)
        except InvalidRequest as error:
            raise type(error)(where + error.message) from error
        if not count_tokens(turn.text):
            raise InvalidRequest(f"{where}the text holds only invisible characters")
        texts = split_text(
            turn.text,
            count_tokens=count_tokens,
            max_tokens=max_tokens,
            max_seconds=max_seconds,
            language=language,
        )
        segments += [Segment(len(segments) + i, number, t, turn.voice) for i, t in enumerate(texts)]
    return segments


def split_text(
    text: str,
    *,
    count_tokens: Callable[[str], int],
    max_tokens: int,
    max_seconds: float = MAX_SEGMENT_S,
    language: str | None = None,
) -> list[str]:
    """Split a text into segments within both limits, in order, losing only white space.

    Of all ways to do it, takes the one with the fewest segments that breaks at the best places
    and leaves no segment much shorter than the rest. Cues (`[laughs]`, `♪ … ♪`, `MAN:`), numbers
    and abbreviations stay whole, unless they are longer than the limits themselves.

    Args:
        text: one speaker's, of any length.
        count_tokens: word pieces of a text.
        max_tokens: most word pieces a segment.
        max_seconds: most speech a segment, by `estimate_seconds`.
        language: ISO 639 code, for abbreviations; by default `guess_language(text)`.

    Returns:
        Non-empty segments; none for blank text. A single combining sequence is never cut, even
        where it alone breaks a limit.
    """
    splitter = _Splitter(text, count_tokens, max_tokens, max_seconds)
    if splitter.fits(0, len(text)):
        return [text] if text.strip() else []
    spans = splitter.pack(splitter.atoms(_find_breaks(splitter, language)))
    return [text[start:stop].strip() for start, stop in spans]


# ── how long it takes to say ─────────────────────────────────────────────────────────────────────
# Characters a second of calm reading, pauses and punctuation included:
#   alphabets 14.5   150 English words a minute, the usual speed of audio books, at 5.8 characters
#   Han        4.2   250 characters a minute, a Chinese audio book (newsreaders reach 300)
#   kana       6.0   with Han at 4.2: about 300 characters of mixed Japanese a minute (NHK)
#   Hangul     5.5   330 syllables a minute, a Korean newsreader
#   Devanagari 7.0   base letters, their vowel signs free: 125 Hindi words a minute
#   digits     3.5   "1984" takes a little over a second
# They decide only where a long text parts, never what is said.
_ALPHABET_CPS: Final = 14.5
_SCRIPT_CPS: Final = (
    ("0", "9", 3.5),
    ("\u0900", "\u097f", 7.0),
    ("\u0966", "\u096f", 3.5),
    ("\u3040", "\u30ff", 6.0),
    ("\u3400", "\u9fff", 4.2),
    ("\uac00", "\ud7a3", 5.5),
    ("\uf900", "\ufaff", 4.2),
    ("\uff10", "\uff19", 3.5),
    ("\U00020000", "\U0003ffff", 4.2),
)


def estimate_seconds(text: str) -> float:
    """Estimate how long a text takes to say; white space counts once, none at the ends."""
    return _spoken_seconds(text.strip())[-1]


def _spoken_seconds(text: str) -> list[float]:
    """Return len(text) + 1 running sums."""
    seconds = [0.0]
    is_blank = True  # since the last character that takes time
    for char in text:
        taken = 0.0 if is_blank and char.isspace() else _char_seconds(char)
        seconds.append(seconds[-1] + taken)
        if taken:
            is_blank = char.isspace()
    return seconds


@lru_cache(maxsize=4096)
def _char_seconds(char: str) -> float:
    if (not char.isspace() and unicodedata.category(char)[0] in "MC") or char == "\ufffd":
        return 0.0  # marks belong to their base; the rest is dropped by the tokenizer
    rates = [rate for first, last, rate in _SCRIPT_CPS if first <= char <= last]
    return 1.0 / (rates[-1] if rates else _ALPHABET_CPS)


# ── where a text may part ────────────────────────────────────────────────────────────────────────
class _Break(IntEnum):
    """What a position parts, best first."""

    PARAGRAPH = 0
    SENTENCE = 1
    CLAUSE = 2
    WORD = 3
    ABBREVIATION = 4  # a space after "Dr.", "z. B.", a list's "1."
    IDEOGRAPH = 5
    GRAPHEME = 6
    WHOLE = 7  # inside a cue


# What a break costs beside 1 for each segment and the square of its empty share.
_COST: Final = {
    _Break.PARAGRAPH: 0.0,
    _Break.SENTENCE: 0.05,
    _Break.CLAUSE: 0.5,
    _Break.WORD: 1.0,
    _Break.ABBREVIATION: 1.5,
    _Break.IDEOGRAPH: 1.5,
    _Break.GRAPHEME: 2.0,
    _Break.WHOLE: 3.0,
}

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


def _find_breaks(splitter: _Splitter, language: str | None) -> dict[int, _Break]:
    """Return every position that begins a piece, with the best reason to break before it."""
    text = splitter.text
    breaks: dict[int, _Break] = {}
    for match in _LABEL.finditer(text):
        breaks.setdefault(match.start(), _Break.SENTENCE)
    for match in _PARAGRAPH.finditer(text):
        breaks.setdefault(match.end(), _Break.PARAGRAPH)
    for start, stop in _sentences(text, language):
        breaks.setdefault(stop, _sentence_break(text[start:stop], text[stop : stop + 1]))
    for match in _CLAUSE.finditer(text):
        breaks.setdefault(match.end(), _Break.CLAUSE)
    for match in _SPACE.finditer(text):
        breaks.setdefault(match.end(), _Break.ABBREVIATION if match[1] else _Break.WORD)
    starts = list(_graphemes(text))
    for position in starts:
        before, after = text[position - 1], text[position]
        if after.isspace():
            continue  # a piece begins with what follows
        between = _IDEOGRAPH.match(before) or _IDEOGRAPH.match(after)
        is_good = between and after not in _NEVER_FIRST and before not in _NEVER_LAST
        breaks.setdefault(position, _Break.IDEOGRAPH if is_good else _Break.GRAPHEME)
    for match in _WHOLE.finditer(text):
        if splitter.fits(match.start(), match.end()):
            for position in range(match.start() + 1, match.end()):
                if position in breaks:
                    breaks[position] = _Break.WHOLE
    # Only where something stands on both sides, and never between a base and its marks.
    first, last = len(text) - len(text.lstrip()), len(text.rstrip())
    return {p: breaks[p] for p in starts if p in breaks and first < p < last}


def _sentence_break(sentence: str, following: str) -> _Break:
    if _ABBREVIATION.search(sentence):
        return _Break.ABBREVIATION
    if sentence.endswith("."):
        return _Break.CLAUSE  # no space: "said so.Then", rarely "notes.Txt"
    # "т.е. иначе", "vb. kişiler"; but people write without capitals, too.
    return _Break.CLAUSE if following.islower() else _Break.SENTENCE


def _sentences(text: str, language: str | None) -> Iterator[tuple[int, int]]:
    """Yield each sentence's start and stop, white space after it included."""
    code = (language or guess_language(text)).replace("_", "-").split("-")[0].lower()
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


def _graphemes(text: str) -> Iterator[int]:
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


# ── which breaks to take ─────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class _Atom:
    """A piece that is not parted further: text[start:stop], and the break that follows it."""

    start: int
    stop: int
    num_tokens: int
    after: _Break


class _Splitter:
    """One text, its limits, and what its parts take."""

    def __init__(
        self, text: str, count_tokens: Callable[[str], int], max_tokens: int, max_seconds: float
    ) -> None:
        self.text = text
        self._count_tokens = count_tokens
        self._max_tokens = max_tokens
        self._max_seconds = max_seconds
        self._seconds = _spoken_seconds(text)
        # The same, without white space at the end: a segment is stripped.
        self._said = [0.0]
        for position, char in enumerate(text):
            self._said.append(self._said[-1] if char.isspace() else self._seconds[position + 1])

    def count(self, start: int, stop: int) -> int:
        return self._count_tokens(self.text[start:stop].strip())

    def fits(self, start: int, stop: int) -> bool:
        return self._load(start, stop, 0) <= 1.0 and self.count(start, stop) <= self._max_tokens

    def _load(self, start: int, stop: int, num_tokens: int) -> float:
        """Return how full a segment would be, 1 being a limit; `start` is no white space."""
        seconds = self._said[stop] - self._seconds[start]
        return max(seconds / self._max_seconds - 1e-9, num_tokens / self._max_tokens)

    def atoms(self, breaks: dict[int, _Break]) -> list[_Atom]:
        """Cut at every sentence, and further only what does not fit."""
        by_level: dict[_Break, list[int]] = {level: [] for level in _Break}
        for position, level in breaks.items():
            by_level[level].append(position)
        after = breaks | {len(self.text): _Break.PARAGRAPH}
        atoms: list[_Atom] = []
        for start, stop in self._cut(0, len(self.text), by_level, _Break.PARAGRAPH):
            atom = _Atom(start, stop, self.count(start, stop), after[stop])
            if atoms and self._belong_together(atoms[-1], atom):
                last = atoms.pop()
                atom = replace(atom, start=last.start, num_tokens=last.num_tokens + atom.num_tokens)
            atoms.append(atom)
        return atoms

    def _belong_together(self, left: _Atom, right: _Atom) -> bool:
        if not (left.num_tokens and right.num_tokens):
            return True  # zero-width characters alone say nothing
        # A choice among single characters is worth less than the time that it takes.
        load = self._load(left.start, right.stop, left.num_tokens + right.num_tokens)
        return left.after >= _Break.IDEOGRAPH and load < 1 / 16

    def _cut(
        self, start: int, stop: int, by_level: dict[_Break, list[int]], level: _Break
    ) -> Iterator[tuple[int, int]]:
        if level > _Break.SENTENCE and self.fits(start, stop):
            yield start, stop
            return
        cuts = by_level[level]
        inside = cuts[bisect_right(cuts, start) : bisect_left(cuts, stop)]
        for left, right in zip([start, *inside], [*inside, stop], strict=True):
            if level == _Break.WHOLE:
                yield left, right
            else:
                yield from self._cut(left, right, by_level, _Break(level + 1))

    def pack(self, atoms: list[_Atom]) -> Iterator[tuple[int, int]]:
        """Join atoms into segments at the least cost, by the shortest path over the breaks."""
        # Counted once an atom: exact for word pieces, whose words do not know each other.
        tokens = [0, *accumulate(atom.num_tokens for atom in atoms)]
        cost = [0.0] + [float("inf")] * len(atoms)
        came_from = [0] * (len(atoms) + 1)
        for last, atom in enumerate(atoms):
            for first in range(last, -1, -1):
                start = atoms[first].start
                load = self._load(start, atom.stop, tokens[last + 1] - tokens[first])
                if load > 1.0 and first < last:
                    break
                price = cost[first] + 1.0 + (1.0 - min(load, 1.0)) ** 2 + _COST[atom.after]
                if price < cost[last + 1]:
                    cost[last + 1], came_from[last + 1] = price, first
        borders = [len(atoms)]
        while borders[-1]:
            borders.append(came_from[borders[-1]])
        borders.reverse()
        for first, end in pairwise(borders):
            yield from self._verified(atoms[first:end])

    def _verified(self, atoms: list[_Atom]) -> Iterator[tuple[int, int]]:
        """Yield the atoms as one segment; as more, where the count of the whole exceeds the sum."""
        start, stop = atoms[0].start, atoms[0].stop
        if self.fits(start, atoms[-1].stop):
            yield start, atoms[-1].stop
            return
        for atom in atoms[1:]:
            if not self.fits(start, atom.stop):
                yield start, stop
                start = atom.start
            stop = atom.stop
        yield start, stop


# ── languages ────────────────────────────────────────────────────────────────────────────────────
_SCRIPTS: Final = (
    ("ja", re.compile(r"[\u3040-\u30ff]")),
    ("ko", re.compile(r"[\u1100-\u11ff\uac00-\ud7a3]")),
    ("hi", re.compile(r"[\u0900-\u097f]")),
    ("ru", re.compile(r"[\u0400-\u04ff]")),
    ("zh", re.compile(r"[\u3400-\u9fff]")),
)


# Frequent words that name the language of a Latin text, each listed once.
_WORDS: Final = {
    word: language
    for language, words in (
        ("de", "der die das und ist nicht ein ich wir sie auf für mit wie"),
        ("es", "el los las y es una está qué por muy pero no con sin"),
        ("fr", "le les des et est une je nous vous dans qui que pas était"),
        ("it", "il lo gli di che è sono un della per io ma più anche"),
        ("pl", "w z się nie na jest już że był jak ale dla czy i"),
        ("pt", "o os as uma não é em um com mas você eu foi da"),
        ("tr", "ve bir bu ne için çok ama gibi daha ben var değil mi ile"),
        ("en", "the and is of to you it was that in for with he my"),
    )
    for word in words.split()
}


def guess_language(text: str) -> str:
    """Guess one of Bark's languages: by script, and for Latin script by frequent words.

    A fifth of the letters decides on a script: kana among Chinese characters make a text Japanese,
    one Russian name makes none Russian. A wrong guess costs an abbreviation, not more.
    """
    letters = sum(char.isalpha() for char in text)
    for language, script in _SCRIPTS:
        if len(script.findall(text)) * 5 > letters:
            return language
    counts = Counter(_WORDS[word] for word in re.findall(r"\w+", text.lower()) if word in _WORDS)
    return counts.most_common(1)[0][0] if counts else "en"
