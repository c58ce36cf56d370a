"""Long text → segments that the semantic stage can say in one go.

Bark speaks at most 256 word pieces and 15.4 seconds at a time, and rambles near that end. So a
long text becomes segments of whole sentences: `breaks.py` says where it may part, `packing.py`
which of the breaks to take. A text within the limits stays one segment, exactly as it was
written: that is the original's behaviour.

Knows no tokenizer: word pieces are counted by a function that the caller hands in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from pipeline.breaks import Break, find_breaks
from pipeline.errors import InvalidRequest, TextTooLong
from pipeline.language import guess_language
from pipeline.packing import Measure, pack
from pipeline.spec import SemanticSpec
from pipeline.speech_rate import estimate_seconds
from pipeline.stages.text import MAX_TEXT_CHARS, check_text

# Bark stops dead at 15.39 s (768 semantic tokens); the margin is for slow voices and pauses.
MAX_SEGMENT_S: Final = 13.0
_SHARE_OF_LIMIT: Final = 0.85  # the same margin, for models that stop sooner
# Bark rambles on a word or two: what opens a long text is at least so long, and so is the rest.
_SHORTEST_OPENING_S: Final = 1.5


def longest_segment_s(semantic: SemanticSpec) -> float:
    """Return how long a segment may be estimated to last: 13 s for Bark, less for small models."""
    return min(MAX_SEGMENT_S, _SHARE_OF_LIMIT * semantic.max_new_tokens / semantic.rate_hz)


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

    A text that needs several segments opens with its first sentence as one of its own: a listener
    waits for no more. The other arguments are those of `split_text`.

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
        if not segments and len(texts) > 1:
            texts[:1] = _opened(texts[0], language)
        segments += [Segment(len(segments) + i, number, t, turn.voice) for i, t in enumerate(texts)]
    return segments


def _opened(text: str, language: str | None) -> list[str]:
    """Part the first sentence (or sentences, where it is very short) from what follows."""
    breaks = find_breaks(text, language or guess_language(text), lambda *_: True)
    for position, kind in breaks.items():
        parts = [text[:position].strip(), text[position:].strip()]
        if kind <= Break.SENTENCE and all(
            estimate_seconds(part) >= _SHORTEST_OPENING_S for part in parts
        ):
            return parts
    return [text]


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
    measure = Measure(text, count_tokens, max_tokens, max_seconds)
    if measure.fits(0, len(text)):
        return [text] if text.strip() else []
    breaks = find_breaks(text, language or guess_language(text), measure.fits)
    return [text[start:stop].strip() for start, stop in pack(measure, breaks)]
