"""nano's word pieces, and which of them share one trained row.

Every word of the vocabulary is a piece; any other Latin word is spelt, letter by letter, and
heard so. Digits are read one by one. Case, accents and kinds of dashes cost no training: their
rows are copies. What is left is [UNK], trained to be passed over, and announced by the service.
"""

from __future__ import annotations

import string
import unicodedata
from functools import cache

from training.nano.words import DIGITS, JINGLE, vocabulary

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_MARKS = (*".,?!'-", JINGLE)
_ALIKE = {",": ";:…—–", "'": "’‘`"}
_ACCENTED = "àáâãäåçèéêëìíîïñòóôõöùúûüýÿšžğşąęćńśźżőű"
UNKNOWN_ID = _SPECIAL.index("[UNK]")


@cache
def pieces() -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the pieces in the order of their ids, and for each the id whose row is trained."""
    trained = [
        *_SPECIAL,
        *_MARKS,
        *string.ascii_lowercase,
        *(f"##{letter}" for letter in string.ascii_lowercase),
        *(word for word in vocabulary() if len(word) > 1),
    ]
    number = {piece: i for i, piece in enumerate(trained)}
    copies: dict[str, int] = {}

    def copy(piece: str, of: str) -> None:
        if piece not in number:
            copies.setdefault(piece, number[of])

    for word in vocabulary():
        copy(word.capitalize(), word)
        copy(word.upper(), word)
    for letter in string.ascii_lowercase + _ACCENTED:
        plain = unicodedata.normalize("NFD", letter)[0]
        for shape in (letter, letter.upper()):
            if len(shape) == 1:
                copy(shape, plain)
                copy(f"##{shape}", f"##{plain}")
    for digit, word in enumerate(DIGITS):
        copy(str(digit), word)
        copy(f"##{digit}", word)
    for mark, others in _ALIKE.items():
        for other in others:
            copy(other, mark)
    return (*trained, *copies), (*range(len(trained)), *copies.values())
