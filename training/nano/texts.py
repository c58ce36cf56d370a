"""Texts and their timing, for the semantic model: many more than there is sound of.

The teacher tells its durations without its sound in a twentieth of the time, and the semantic
model needs no sound. The texts of the clips alone it learnt by heart.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.stages.text import TextStage
from training.nano.clips import LONGEST_S
from training.nano.dataset import bounds
from training.nano.held_out import all_held_out, fingerprint
from training.nano.parts import make_parts, part_paths
from training.nano.phases import places_of_symbols
from training.nano.pieces import pieces
from training.nano.shape import nano_spec
from training.nano.teacher import VOICES, Teacher
from training.nano.tokens import Index, semantic_tokens, spoken_at
from training.nano.trainer import Split
from training.nano.words import random_text

PART: Final = 10_000
_NONE: Final = -1  # in the files: no piece here


@dataclass(frozen=True, slots=True, eq=False)
class Spoken:
    """One text: pieces int64 [n]; states int64 [m]; places int64 [m], which piece each says."""

    pieces: NDArray[np.int64]
    states: NDArray[np.int64]
    places: NDArray[np.int64]


class Texts:
    """Texts by number.

    Raises:
        FileNotFoundError: none were made.
    """

    def __init__(self, folder: Path) -> None:
        parts = [np.load(path, allow_pickle=False) for path in part_paths(folder)]
        if not parts:
            raise FileNotFoundError(f"no texts in {folder}; run: python -m training.nano texts")
        self._pieces, self._states, self._places, self._lengths = (
            np.concatenate([part[name] for part in parts])
            for name in ("pieces", "states", "places", "lengths")
        )
        self._ends = np.cumsum([0, *self._lengths])
        self._by_length = {split: self._sorted(split) for split in ("train", "validation")}

    def __len__(self) -> int:
        return len(self._lengths)

    def __getitem__(self, i: int) -> Spoken:
        first, last = self._ends[i : i + 2]
        row = self._pieces[i].astype(np.int64)
        states, places = (a[first:last].astype(np.int64) for a in (self._states, self._places))
        return Spoken(row[row != _NONE], states, places)

    def draw(self, rng: np.random.Generator, split: Split) -> int:
        return int(rng.integers(*bounds(len(self), split)))

    def draw_alike(self, count: int, rng: np.random.Generator, split: Split) -> list[int]:
        """Draw texts of about the same length, so that little is padded."""
        order = self._by_length[split]
        middle = int(np.searchsorted(self._lengths[order], self._lengths[self.draw(rng, split)]))
        low = max(0, min(middle - 2 * count, len(order) - 4 * count))
        nearby = order[low : low + 4 * count]
        return [int(i) for i in rng.choice(nearby, size=count, replace=False)]

    def _sorted(self, split: Split) -> NDArray[np.int64]:
        first, last = bounds(len(self), split)
        return first + np.argsort(self._lengths[first:last], kind="stable")


def make_texts(folder: Path, tokens: Path, count: int) -> None:
    """Write `count` texts, PART to a file, on several processes; print progress."""
    make_parts("texts", folder, -(-count // PART), _make_part, (write_vocabulary(folder), tokens))


def write_vocabulary(folder: Path) -> Path:
    """Write nano's word pieces as a vocab.txt into a folder; return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vocab.txt"
    path.write_text("\n".join(pieces()[0]) + "\n", encoding="utf-8")
    return path


def _make_part(part: int, vocabulary: Path, tokens: Path) -> dict[str, NDArray[Any]]:
    rng, teacher, symbols = random.Random(f"texts/{part}"), Teacher(), Index.read(tokens).symbols
    spec = nano_spec(len(symbols)).semantic
    stage, made = TextStage(vocabulary, spec), list[Spoken]()
    while len(made) < PART:
        text, voice = random_text(rng), VOICES[len(made) % len(VOICES)]
        cut = stage(text)
        if fingerprint(text) in all_held_out() or cut.num_dropped:
            continue
        timing, row = teacher.timing(text, voice), cut.ids[: cut.num_tokens] - spec.text_offset
        if set(timing.symbols) - set(symbols):
            continue  # in a rehearsal with few clips some phoneme has no number
        places = places_of_symbols(timing.symbols, row)
        if places is None or timing.ends_s[-1] > LONGEST_S:
            continue
        states = semantic_tokens(timing, symbols).astype(np.int64)
        made.append(Spoken(row, states, places[spoken_at(timing)[0]]))
    rows = np.full((PART, spec.prompt_length), _NONE, np.int16)
    for i, one in enumerate(made):
        rows[i, : len(one.pieces)] = one.pieces
    return {
        "pieces": rows,
        "states": np.concatenate([one.states for one in made]).astype(np.int16),
        "places": np.concatenate([one.places for one in made]).astype(np.int8),
        "lengths": np.array([len(one.states) for one in made]),
    }
