"""A small WordPiece vocabulary of our own, for models that ship with the package.

It spells any text of Latin letters: every letter is a piece, alone and as a continuation, and so
are digits and ASCII punctuation; common words are one piece. Everything else is [UNK].
"""

from __future__ import annotations

import string

# [PAD] is 0 as in BERT's vocabularies; the others are found by name, never by number.
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ACCENTED = "àáâãäåæçèéêëìíîïñòóôõöøùúûüýÿßœšžğışłąęćńśźżőű"
CAPITALS = "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝŒŠŽĞİŞŁĄĘĆŃŚŹŻŐŰ"
WORDS = """
a about after again all also am an and are as at back be because been before but by can come could
day did do down even every first for from get give go good had has have he hello her here him his
how I if in into is it its just know laugh laughs laughter like little long look made make man many
may me more most music my name new no not now of on one only or other our out over people please
right said say see she sing so some speak speech sigh sighs take test than thank that the their them
then there these they think this three time to today two under up us use very voice want was water
way we well were what when where which who why will with word words work world would year yes you
your zero four five six seven eight nine ten
"""


def small_vocabulary() -> list[str]:
    """Return the pieces in the order of their ids."""
    letters = string.ascii_letters + string.digits + ACCENTED + CAPITALS
    whole = [word for word in WORDS.split() if len(word) > 1]
    titled = [word.capitalize() for word in whole]
    pieces = [
        *SPECIAL,
        *string.punctuation,
        "♪",
        *letters,
        *(f"##{letter}" for letter in letters),
        *("##s", "##ed", "##ing", "##er", "##ly", "##th", "##gh", "##sh", "##ch", "##tion"),
        *whole,
        *titled,
    ]
    return list(dict.fromkeys(pieces))
