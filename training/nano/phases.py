"""Where in its text a semantic token is: nano's answer to "two seven seven seven three".

A semantic token is a state of a phoneme and a phase: the place of the word piece being said,
modulo 16. Without it nothing in what was said tells one "seven" from the next. The coarse model
knows states alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.nano.pieces import pieces
from training.nano.teacher import NOTE_SYMBOLS

NUM_PHASES: Final = 16
_SEPARATORS: Final = (" ", "_")
# A piece after one of these is said in one breath with the piece before: "don't", "forty-four".
_JOINERS: Final = "'-"
_STOPS: Final = ".,?!"


def phased(
    states: NDArray[np.int64], places: NDArray[np.int64], num_states: int
) -> NDArray[np.int64]:
    """Join states of phonemes, 0 … num_states - 1, and the places of their pieces to tokens."""
    tokens: NDArray[np.int64] = states + places % NUM_PHASES * num_states
    return tokens


def places_of_symbols(symbols: Sequence[str], row: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Return for each symbol the place of the piece being said, a word's first if it has more.

    Args:
        symbols: the teacher's, words parted by spaces, sentences by pads. A separator belongs to
            the word after it, the last to the word before. row: int64, the pieces of the text.

    Returns:
        int64 [symbols], or None where teacher and tokenizer part the text differently.
    """
    names, said, is_joined = pieces()[0], list[int](), False
    for place, piece in enumerate(row):
        name = names[piece]
        if name in _JOINERS:
            is_joined = bool(said)
        elif name in _STOPS or is_joined:
            is_joined = False
        else:
            said.append(place)
    is_apart = np.array([symbol in _SEPARATORS for symbol in symbols])
    follows = np.concatenate([[True], is_apart[:-1]])
    begins = ~is_apart & follows | np.array([s == NOTE_SYMBOLS[0] for s in symbols])
    if begins.sum() != len(said) or not said:
        return None
    word = np.minimum(np.cumsum(begins) - 1 + is_apart, len(said) - 1)
    places: NDArray[np.int64] = np.array(said)[word]
    return places
