"""Which breaks a long text parts at: few segments, at good places, none much shorter than the rest.

First the text is cut into atoms: at every sentence, and further only what does not fit. Then the
atoms are joined again, by the shortest path over the breaks that are left.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import Final

from pipeline.breaks import Break
from pipeline.speech_rate import running_seconds

# What a break costs beside 1 for each segment and the square of its empty share.
_COST: Final = {
    Break.PARAGRAPH: 0.0,
    Break.SENTENCE: 0.05,
    Break.CLAUSE: 0.5,
    Break.WORD: 1.0,
    Break.ABBREVIATION: 1.5,
    Break.IDEOGRAPH: 1.5,
    Break.GRAPHEME: 2.0,
    Break.WHOLE: 3.0,
}


class Measure:
    """One text, its limits, and what its parts take of them."""

    def __init__(
        self, text: str, count_tokens: Callable[[str], int], max_tokens: int, max_seconds: float
    ) -> None:
        self.text = text
        self._count_tokens = count_tokens
        self._max_tokens = max_tokens
        self._max_seconds = max_seconds
        self._seconds = running_seconds(text)
        # The same, without white space at the end: a segment is stripped.
        self._said = [0.0]
        for position, char in enumerate(text):
            self._said.append(self._said[-1] if char.isspace() else self._seconds[position + 1])

    def count(self, start: int, stop: int) -> int:
        """Count the word pieces of text[start:stop]."""
        return self._count_tokens(self.text[start:stop].strip())

    def load(self, start: int, stop: int, num_tokens: int) -> float:
        """Return how full a segment would be, 1 being a limit; `start` is no white space."""
        seconds = self._said[stop] - self._seconds[start]
        return max(seconds / self._max_seconds - 1e-9, num_tokens / self._max_tokens)

    def fits(self, start: int, stop: int) -> bool:
        return self.load(start, stop, 0) <= 1.0 and self.count(start, stop) <= self._max_tokens


def pack(measure: Measure, breaks: Mapping[int, Break]) -> Iterator[tuple[int, int]]:
    """Yield the start and stop of each segment, at the least cost.

    Args:
        breaks: positions in ascending order, as `find_breaks` returns them.
    """
    atoms = _atoms(measure, breaks)
    # Counted once an atom: exact for word pieces, whose words do not know each other.
    tokens = [0, *accumulate(atom.num_tokens for atom in atoms)]
    best = [(0.0, 0)]  # for the first n atoms: the cost, and where their last segment begins
    for end, atom in enumerate(atoms, start=1):
        options: list[tuple[float, int]] = []
        for first in reversed(range(end)):
            load = measure.load(atoms[first].start, atom.stop, tokens[end] - tokens[first])
            if load > 1.0 and options:
                break
            price = best[first][0] + 1.0 + (1.0 - min(load, 1.0)) ** 2 + _COST[atom.after]
            options.append((price, first))
        best.append(min(options, key=itemgetter(0)))
    borders = [len(atoms)]
    while borders[-1]:
        borders.append(best[borders[-1]][1])
    for first, end in pairwise(reversed(borders)):
        yield from _verified(measure, atoms[first:end])


def _verified(measure: Measure, atoms: Sequence[_Atom]) -> Iterator[tuple[int, int]]:
    """Yield the atoms as one segment; as more, where the count of the whole exceeds the sum."""
    start, stop = atoms[0].start, atoms[0].stop
    if measure.fits(start, atoms[-1].stop):
        yield start, atoms[-1].stop
        return
    for atom in atoms[1:]:
        if not measure.fits(start, atom.stop):
            yield start, stop
            start = atom.start
        stop = atom.stop
    yield start, stop


# ── atoms ────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class _Atom:
    """A piece that is not parted further: text[start:stop], and the break that follows it."""

    start: int
    stop: int
    num_tokens: int
    after: Break


def _atoms(measure: Measure, breaks: Mapping[int, Break]) -> list[_Atom]:
    cuts: list[list[int]] = [[] for _ in Break]
    for position, kind in breaks.items():
        cuts[kind].append(position)
    atoms: list[_Atom] = []
    for start, stop in _cut(measure, cuts, 0, len(measure.text), Break.PARAGRAPH):
        after = breaks.get(stop, Break.PARAGRAPH)  # none at the end
        atom = _Atom(start, stop, measure.count(start, stop), after)
        if atoms and _belong_together(measure, atoms[-1], atom):
            last = atoms.pop()
            atom = replace(atom, start=last.start, num_tokens=last.num_tokens + atom.num_tokens)
        atoms.append(atom)
    return atoms


def _cut(
    measure: Measure, cuts: Sequence[list[int]], start: int, stop: int, level: int
) -> Iterator[tuple[int, int]]:
    """Cut at every sentence, and further, level by level, only what does not fit."""
    if level == len(cuts) or (level > Break.SENTENCE and measure.fits(start, stop)):
        yield start, stop
        return
    inside = cuts[level][bisect_right(cuts[level], start) : bisect_left(cuts[level], stop)]
    for left, right in pairwise([start, *inside, stop]):
        yield from _cut(measure, cuts, left, right, level + 1)


def _belong_together(measure: Measure, left: _Atom, right: _Atom) -> bool:
    if not (left.num_tokens and right.num_tokens):
        return True  # zero-width characters alone say nothing
    # A choice among single characters is worth less than the time that it takes.
    load = measure.load(left.start, right.stop, left.num_tokens + right.num_tokens)
    return left.after >= Break.IDEOGRAPH and load < 1 / 16
