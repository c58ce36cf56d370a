"""The tokens of all clips, opened; and what a batch needs of one clip."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.payloads import HistoryPrompt
from training.nano.mel import HOP
from training.nano.tokens import Index
from training.nano.trainer import Split

_NUM_HELD_BACK = 200  # clips at the end, for validation losses


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
        self.index = Index(**json.loads((folder / "index.json").read_text()))
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
        border = len(self) - _NUM_HELD_BACK
        low, high = (0, border) if split == "train" else (border, len(self))
        return int(rng.integers(low, high))

    def draw_like(self, i: int, rng: np.random.Generator, split: Split) -> int:
        """Draw another clip of the same voice."""
        while True:
            other = self.draw(rng, split)
            if other != i and self.index.voices[other] == self.index.voices[i]:
                return other

    def draw_alike(self, count: int, rng: np.random.Generator, split: Split) -> list[int]:
        """Draw clips of about the same length, so that little is padded."""
        middle = self.draw(rng, split)
        order = self._by_length[split]
        place = int(np.searchsorted(self._lengths[order], self._lengths[middle]))
        low = max(0, min(place - 2 * count, len(order) - 4 * count))
        nearby = order[low : low + 4 * count]
        return [int(i) for i in rng.choice(nearby, size=count, replace=False)]

    @cached_property
    def _lengths(self) -> NDArray[np.int64]:
        return np.array(self.index.num_semantic)

    @cached_property
    def _by_length(self) -> dict[Split, NDArray[np.int64]]:
        border = len(self) - _NUM_HELD_BACK
        return {
            "train": np.argsort(self._lengths[:border], kind="stable"),
            "validation": border + np.argsort(self._lengths[border:], kind="stable"),
        }
