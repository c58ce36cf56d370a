"""The tokens of all clips, opened; and what a batch needs of one clip."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.payloads import HistoryPrompt
from training.nano.mel import HOP
from training.nano.tokens import Index
from training.nano.trainer import Split

_NUM_HELD_BACK = 200  # clips or texts at the end, for validation losses


def bounds(count: int, split: Split) -> tuple[int, int]:
    """Return the first number of a split's clips or texts, and the one after the last."""
    border = count - _NUM_HELD_BACK
    return (0, border) if split == "train" else (border, count)


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One clip: semantic int64 [n]; codes int32 [8, F]; samples int16 [F * 320]."""

    text: str
    voice: str
    semantic: NDArray[np.int64]
    codes: NDArray[np.int32]
    samples: NDArray[np.int16]

    @property
    def history(self) -> HistoryPrompt:
        return HistoryPrompt(self.semantic, self.codes[:2], self.codes)


class Dataset:
    """Clips by number; the sound stays on disk until it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.index = Index.read(folder)
        self.books: NDArray[np.float32] = np.load(folder / "books.npy")
        self._semantic = np.load(folder / "semantic.npy")
        self._codes = np.load(folder / "codes.npy")
        self._samples = np.load(folder / "samples.npy", mmap_mode="r")
        self._semantic_ends = np.cumsum([0, *self.index.num_semantic])
        self._frame_ends = np.cumsum([0, *self.index.num_frames])

    def __len__(self) -> int:
        return len(self.index.texts)

    def __getitem__(self, i: int) -> Item:
        a, b = self._semantic_ends[i : i + 2]
        f, g = self._frame_ends[i : i + 2]
        return Item(
            self.index.texts[i],
            self.index.voices[i],
            self._semantic[a:b].astype(np.int64),
            np.ascontiguousarray(self._codes[:, f:g]).astype(np.int32),
            self._samples[f * HOP : g * HOP],
        )

    def draw(self, rng: np.random.Generator, split: Split) -> int:
        """Draw the number of a clip."""
        return int(rng.integers(*bounds(len(self), split)))

    def draw_like(self, i: int, rng: np.random.Generator, split: Split) -> int:
        """Draw another clip of the same voice."""
        while True:
            other = self.draw(rng, split)
            if other != i and self.index.voices[other] == self.index.voices[i]:
                return other
