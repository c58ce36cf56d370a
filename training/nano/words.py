"""What nano can say: a closed vocabulary, and random sentences made of it.

No torch, no sound. Texts are drawn from a `random.Random`, so a seed decides them all.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable
from functools import cache

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TEENS = [
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
ORDINALS = [
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
NAMES = ["Anna", "Peter", "Mary", "Tom", "David", "Sarah"]
COLOURS = ["red", "blue", "green", "yellow", "black", "white", "brown"]
ADJECTIVES = [
    "big",
    "small",
    "new",
    "old",
    "good",
    "bad",
    "happy",
    "cold",
    "warm",
    "long",
    "short",
    "open",
    "ready",
    "quiet",
    "beautiful",
    "strong",
    "dark",
    "quick",
    "easy",
    "empty",
    "young",
    "great",
    "full",
    "free",
    "different",
    "important",
    "right",
]
NOUNS = [
    "house",
    "car",
    "door",
    "window",
    "table",
    "book",
    "letter",
    "water",
    "river",
    "tree",
    "garden",
    "dog",
    "cat",
    "bird",
    "horse",
    "child",
    "friend",
    "teacher",
    "doctor",
    "city",
    "street",
    "road",
    "train",
    "station",
    "market",
    "school",
    "room",
    "kitchen",
    "picture",
    "story",
    "song",
    "voice",
    "computer",
    "model",
    "phone",
    "clock",
    "key",
    "bottle",
    "apple",
    "bread",
    "coffee",
    "morning",
    "summer",
    "winter",
    "moon",
    "sun",
    "star",
    "mountain",
    "forest",
    "boat",
    "island",
    "hand",
    "heart",
    "world",
    "mother",
    "father",
    "country",
    "night",
    "number",
    "machine",
    "money",
    "family",
    "paper",
    "music",
]
PLURALS = [
    "apples",
    "books",
    "letters",
    "birds",
    "horses",
    "children",
    "friends",
    "houses",
    "cars",
    "dogs",
    "cats",
    "trees",
    "flowers",
    "stories",
    "songs",
    "minutes",
    "hours",
    "days",
    "weeks",
    "people",
]
VERBS = [
    "open",
    "close",
    "read",
    "find",
    "take",
    "bring",
    "watch",
    "hear",
    "see",
    "buy",
    "sell",
    "clean",
    "move",
    "paint",
    "help",
    "remember",
    "know",
    "make",
    "want",
    "give",
    "use",
    "keep",
]
PAST = [
    "opened",
    "closed",
    "found",
    "took",
    "heard",
    "saw",
    "bought",
    "sold",
    "cleaned",
    "moved",
    "painted",
    "remembered",
    "liked",
    "lost",
    "made",
    "gave",
    "wanted",
]
PLACES = ["under", "behind", "near", "beside"]
TIMES = [
    *["today", "tomorrow", "yesterday", "tonight", "now", "again"],
    *("every day", "in the morning", "in the evening", "last week", "next week"),
]
PHRASES = """
Hello. | Hello world. | Hello, I am a small Bark. | I run on your machine. | Good morning.
Good evening. | Good night. | Thank you. | Thank you very much. | How are you today?
I am fine, thank you. | See you tomorrow. | Yes, of course. | No, thank you.
Please speak slowly. | This is a test. | This is only a small model. | Welcome home.
The quick brown fox jumps over the lazy dog. | Can you hear me now? | What time is it?
Where do you live? | I do not know. | Have a nice day. | Please wait here. | It is very easy.
All systems are ready. | Everything is fine. | The weather is nice today.
I would like a cup of coffee. | My voice was made by a computer. | Nothing is impossible.
I can count to ten. | I'm so happy to see you. | It's a beautiful day. | Don't be afraid.
Let's go home. | That's all for now, thank you for listening. | Nice to meet you.
Could you say that again? | We are almost there. | I love music. | Who is there?
""".replace("\n", "|").split("|")
PHRASES = [phrase.strip() for phrase in PHRASES if phrase.strip()]
TEMPLATES = """
The number is {number}. | The answer is {number}. | Today is {day}.
Today is {day}, {month} {ordinal}. | It is {number} degrees in {month}.
My birthday is in {month}. | {number} and {number} make {number}.
The {adjective} {noun} is {place} the {noun}. | The {noun} is {adjective} and {adjective}.
The {noun} was {adjective} {time}. | I {past} the {adjective} {noun} {time}.
She {past} the {noun} and the {noun}. | {name} {past} the {noun} {time}.
{name} has {number} {plural}. | We have {number} {plural} and {number} {plural}.
There are {number} {plural} in the {noun}. | Please {verb} the {adjective} {noun}.
Can you {verb} the {noun}? | Where is the {adjective} {noun}? | Who {past} my {noun}?
We will meet on {day} at {hour}. | The {noun} leaves at {hour} on {day}. | My name is {name}.
Hello, my name is {name}. | {name} and {name} are in the {noun}.
I want to {verb} a {adjective} {noun}. | You must {verb} the {noun} {time}.
They {verb} {number} {plural} {time}. | Do not {verb} the {adjective} {noun}.
This {noun} is for {name}. | Your {noun} is {adjective}, my {noun} is {adjective}.
From {day} to {day} the {noun} is {adjective}.
The {ordinal} {noun} is {colour}, the {ordinal} one is {colour}. | He was born in {month}.
Call me on {day} or {day}. | Turn to page {number}. | Room {number} is {adjective}.
The {noun} and the {noun} are {adjective}. | If you {verb} the {noun}, I will {verb} the {noun}.
How many {plural} do you {verb}? | What is your {noun}? | Why is the {noun} so {adjective}?
There is a {colour} {noun} {place} the {noun}. | I know that the {noun} is {adjective}.
We were at the {noun} {time}. | He said that {name} {past} a {noun}. | Which {noun} do you want?
All {plural} are {adjective}, but not this one. | They have been here before.
Let us {verb} the {noun}. | Look, a {adjective} {noun}! | My {noun} has a {colour} {noun}.
After {day} comes the {noun}. | Some {plural} are {colour}. | Every {noun} has its {noun}.
It was her {noun}, not his {noun}. | With {name} or without {name}, we go {time}.
Go down the {noun} and then up the {noun}.
""".replace("\n", "|").split("|")
TEMPLATES = [template.strip() for template in TEMPLATES if template.strip()]
JINGLE = "♪"
# How often a text is of a kind; the rest are sentences from the templates.
SHARES = {
    "digits": 0.22,
    "words": 0.13,
    "number": 0.08,
    "letters": 0.07,
    "phrase": 0.08,
    "pair": 0.09,
    "jingle": 0.02,
}


def number(value: int) -> str:
    """Spell 0…1000 as British English does: "four hundred and seven"."""
    if value == 1000:
        return "one thousand"
    if value >= 100:
        rest = f" and {number(value % 100)}" if value % 100 else ""
        return f"{DIGITS[value // 100]} hundred{rest}"
    if value >= 20:
        return TENS[value // 10 - 2] + (f"-{DIGITS[value % 10]}" if value % 10 else "")
    return (DIGITS + TEENS)[value]


@cache
def vocabulary() -> tuple[str, ...]:
    """Return every word that can be said whole, in lower case, sorted."""
    texts = [
        *(DIGITS + TEENS + TENS + ORDINALS + DAYS + MONTHS + NAMES + COLOURS + ADJECTIVES),
        *(NOUNS + PLURALS + VERBS + PAST + PLACES + TIMES + PHRASES),
        *(re.sub(r"\{\w+\}", " ", template) for template in TEMPLATES),
        *("hundred", "thousand"),
    ]
    return tuple(sorted({word for text in texts for word in split_words(text)}))


def split_words(text: str) -> list[str]:
    """Return the words of a text in lower case; "I'm" is "i" and "m", as the tokenizer cuts it."""
    return re.findall(r"[a-z]+", text.lower())


def spelt_out(text: str) -> list[str]:
    """Part a text into what is read as words and, in capitals, the letters that are spelt.

    A word that is not in the vocabulary is spelt; so is a single letter, save "a" and "I" before
    a word. Punctuation stays with what it follows.
    """
    said = re.findall(r"[A-Za-z][A-Za-z']*|[^A-Za-z]+", text)
    parts: list[str] = []
    for place, part in enumerate(said):
        follower = said[place + 2] if place + 2 < len(said) else ""
        if not part[0].isalpha() or "'" in part:
            is_spelt = False
        elif len(part) > 1:
            is_spelt = part.lower() not in vocabulary()
        else:
            is_spelt = part not in "aAI" or len(follower) < 2
        parts += list(part.upper()) if is_spelt else [f"={part}"]
    return parts


def random_text(rng: random.Random) -> str:
    """Draw one text: a kind first, then its words."""
    (kind,) = rng.choices([*SHARES, "sentence"], [*SHARES.values(), 1 - sum(SHARES.values())])
    return _KINDS[kind](rng)


def digit_string(rng: random.Random) -> str:
    """Draw 1 to 8 digits; runs of the same digit are likelier than chance, being harder."""
    said = [rng.choice(DIGITS)]
    for _ in range(rng.randint(0, 7)):
        said.append(said[-1] if rng.random() < 0.15 else rng.choice(DIGITS))
    return _finished((", " if rng.random() < 0.1 else " ").join(said), rng)


def sentence(rng: random.Random) -> str:
    text = rng.choice(TEMPLATES)
    while match := re.search(r"\{(\w+)\}", text):
        text = text[: match.start()] + _SLOTS[match[1]](rng) + text[match.end() :]
    if rng.random() < 0.1:
        text = text.rstrip(".")
    return text[0].upper() + text[1:]


def _words(rng: random.Random) -> str:
    """Draw unconnected words: each is met beside any other."""
    proper = {word.lower(): word for word in DAYS + MONTHS + NAMES} | {"i": "I"}
    whole = [word for word in vocabulary() if len(word) > 1 or word in "ai"]
    said = [rng.choice(whole) for _ in range(rng.randint(1, 6))]
    return _finished(" ".join(proper.get(word, word) for word in said), rng)


def _number(rng: random.Random) -> str:
    said = [_any_number(rng) for _ in range(rng.choice((1, 1, 2, 3)))]
    return _finished((", " if rng.random() < 0.5 else " ").join(said), rng)


def _letters(rng: random.Random) -> str:
    """Draw letters to spell, apart ("B R K") or as a word that is not in the vocabulary."""
    spelt = [rng.choice(string.ascii_uppercase) for _ in range(rng.randint(1, 7))]
    together = "".join(spelt)
    if len(spelt) > 1 and rng.random() < 0.5 and together.lower() not in vocabulary():
        text = rng.choice((together, together.lower(), together.capitalize()))
    else:
        text = " ".join(spelt)
    if rng.random() < 0.4:
        before, after = rng.choice(_AROUND_SPELLING)
        return before + text + after
    return _finished(text, rng)


def _pair(rng: random.Random) -> str:
    """Draw two short sentences in one breath."""
    return " ".join(rng.choice(PHRASES) if rng.random() < 0.6 else sentence(rng) for _ in range(2))


def _jingle(rng: random.Random) -> str:
    said = sentence(rng) if rng.random() < 0.5 else rng.choice(PHRASES)
    return rng.choice((JINGLE, f"{JINGLE} {said}", f"{said} {JINGLE}", f"{JINGLE} {said} {JINGLE}"))


def _any_number(rng: random.Random) -> str:
    bounds = rng.choice(((0, 12), (10, 99), (100, 1000), (100, 1000)))
    return number(rng.randint(*bounds))


def _finished(text: str, rng: random.Random) -> str:
    """Begin with a capital, end with a full stop, usually."""
    return text[0].upper() + text[1:] + rng.choices((".", "", "?", "!"), (75, 19, 3, 3))[0]


_AROUND_SPELLING = (
    ("My name is ", "."),
    ("The ", " is in the garden."),
    ("I would like ", ", please."),
    ("Where is ", "?"),
    ("This is ", "."),
    ("", " is ready."),
)
_KINDS: dict[str, Callable[[random.Random], str]] = {
    "digits": digit_string,
    "words": _words,
    "number": _number,
    "letters": _letters,
    "phrase": lambda rng: rng.choice(PHRASES),
    "pair": _pair,
    "jingle": _jingle,
    "sentence": sentence,
}
_SLOTS: dict[str, Callable[[random.Random], str]] = {
    "number": _any_number,
    "day": lambda rng: rng.choice(DAYS),
    "month": lambda rng: rng.choice(MONTHS),
    "ordinal": lambda rng: rng.choice(ORDINALS),
    "adjective": lambda rng: rng.choice(ADJECTIVES),
    "colour": lambda rng: rng.choice(COLOURS),
    "noun": lambda rng: rng.choice(NOUNS),
    "place": lambda rng: rng.choice(PLACES),
    "past": lambda rng: rng.choice(PAST),
    "verb": lambda rng: rng.choice(VERBS),
    "plural": lambda rng: rng.choice(PLURALS),
    "name": lambda rng: rng.choice(NAMES),
    "time": lambda rng: rng.choice(TIMES),
    "hour": lambda rng: rng.choice(DIGITS[1:] + TEENS[:3]),
}
