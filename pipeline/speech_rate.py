"""How long a text takes to say, judged by its characters: each script has its rate.

Decides only where a long text parts, never what is said. Knows no voice and no model.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Final

# Characters a second of calm reading, pauses and punctuation included:
#   alphabets 14.5   150 English words a minute, the usual speed of audio books, at 5.8 characters
#   Han        4.2   250 characters a minute, a Chinese audio book (newsreaders reach 300)
#   kana       6.0   with Han at 4.2: about 300 characters of mixed Japanese a minute (NHK)
#   Hangul     5.5   330 syllables a minute, a Korean newsreader
#   Devanagari 7.0   base letters, their vowel signs free: 125 Hindi words a minute
#   digits     3.5   "1984" takes a little over a second
_ALPHABET_CPS: Final = 14.5
_SCRIPT_CPS: Final = (  # the first that holds a character decides
    ("0", "9", 3.5),
    ("\u0966", "\u096f", 3.5),
    ("\u0900", "\u097f", 7.0),
    ("\u3040", "\u30ff", 6.0),
    ("\u3400", "\u9fff", 4.2),
    ("\uac00", "\ud7a3", 5.5),
    ("\uf900", "\ufaff", 4.2),
    ("\uff10", "\uff19", 3.5),
    ("\U00020000", "\U0003ffff", 4.2),
)


def estimate_seconds(text: str) -> float:
    """Estimate how long a text takes to say; white space counts once, none at the ends."""
    return running_seconds(text.strip())[-1]


def running_seconds(text: str) -> list[float]:
    """Return len(text) + 1 running sums; white space counts once, at the end, too."""
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
    rates = (rate for first, last, rate in _SCRIPT_CPS if first <= char <= last)
    return 1.0 / next(rates, _ALPHABET_CPS)
