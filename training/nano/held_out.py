"""Texts that are never trained on: for choosing settings (dev) and for scores (test)."""

from __future__ import annotations

import random
from functools import cache

from training.nano.words import PHRASES, digit_string, sentence

_SEEDS = {"dev": 20_001, "test": 20_002}


@cache
def held_out(split: str, kind: str, count: int = 100) -> tuple[str, ...]:
    """Return different texts of a kind: "digits" (4 to 8 of them) or "words" (sentences).

    split: "dev" or "test". A larger count begins with the texts of a smaller one.
    """
    rng = random.Random(f"{_SEEDS[split]}/{kind}")
    texts: dict[str, None] = {}
    while len(texts) < count:
        text = digit_string(rng) if kind == "digits" else sentence(rng)
        size = len(text.split())
        if (size >= 4 if kind == "digits" else 4 <= size <= 11) and text not in PHRASES:
            texts[text] = None
    return tuple(texts)


@cache
def all_held_out() -> frozenset[str]:
    """Return every held-out text as `fingerprint` writes it: no case, no punctuation."""
    return frozenset(
        fingerprint(text)
        for split in _SEEDS
        for kind in ("digits", "words")
        for text in held_out(split, kind)
    )


def fingerprint(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalpha() or letter == " ")
