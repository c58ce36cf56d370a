"""Step 2: clips become what the four networks learn from.

Semantic tokens are the teacher's phonemes, each parted into three (begin, middle, end), at 49.9
a second: nothing is learnt for them. Codes are a residual quantisation of the log-mel spectrum
by plain k-means, eight books of 512. Both exist minutes after the start, so the codec and the
transformers train at the same time, and no codebook can collapse.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.nano.clips import read_clips
from training.nano.mel import HOP, log_mel
from training.nano.teacher import Timing

SEMANTIC_RATE_HZ: Final = 49.9
FRAME_RATE_HZ: Final = 75
NUM_CODEBOOKS: Final = 8
CODEBOOK_SIZE: Final = 512
THIRDS: Final = 3
_SAMPLE = 300_000  # frames that k-means looks at
_ROUNDS = 14


@dataclass(frozen=True, slots=True)
class Index:
    """What the arrays beside it hold: one text, voice, and two lengths a clip, in their order.

    symbols: the teacher's phonemes and notes; a semantic token is one of them, in three parts.
    """

    symbols: list[str]
    texts: list[str]
    voices: list[str]
    num_semantic: list[int]
    num_frames: list[int]

    @classmethod
    def read(cls, folder: Path) -> Index:
        return cls(**json.loads((folder / "index.json").read_text()))


def make_tokens(clips: Path, folder: Path) -> None:
    """Write samples, semantic tokens, codes and codebooks; nothing is left of a broken try."""
    draft = folder.with_suffix(".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    symbols = sorted({symbol for clip in read_clips(clips) for symbol in clip.symbols})
    index = Index(symbols, [], [], [], [])
    semantic, spectra, samples = [], [], []
    for clip in read_clips(clips):
        ids = semantic_tokens(clip, symbols)
        frames = int(len(ids) * FRAME_RATE_HZ / SEMANTIC_RATE_HZ)
        index.texts.append(clip.text)
        index.voices.append(clip.voice)
        index.num_semantic.append(len(ids))
        index.num_frames.append(frames)
        semantic.append(ids)
        sound = clip.samples[: frames * HOP]
        samples.append((sound * 32767).astype(np.int16))
        spectra.append(log_mel(torch.from_numpy(sound)))
    print(f"tokens: {len(index.texts)} clips, {len(symbols)} symbols", flush=True)
    mel = torch.cat(spectra)
    mean, spread = mel.mean(0), (mel - mel.mean(0)).std()
    books, codes = quantise((mel - mean) / spread, float(spread))
    np.save(draft / "samples.npy", np.concatenate(samples))
    np.save(draft / "semantic.npy", np.concatenate(semantic))
    np.save(draft / "codes.npy", codes)
    np.save(draft / "books.npy", books.numpy())
    (draft / "index.json").write_text(json.dumps(asdict(index), ensure_ascii=False))
    shutil.rmtree(folder, ignore_errors=True)
    draft.replace(folder)


def semantic_tokens(timing: Timing, symbols: Sequence[str]) -> NDArray[np.int16]:
    """Return which symbol is being said, and which third of it, 49.9 times a second."""
    number = {symbol: i for i, symbol in enumerate(symbols)}
    ids = np.array([number[symbol] for symbol in timing.symbols])
    place, times = spoken_at(timing)
    starts = np.concatenate([[0.0], timing.ends_s[:-1]])[place]
    share = (times - starts) / np.maximum(timing.ends_s[place] - starts, 1e-9)
    third = np.clip((share * THIRDS).astype(int), 0, THIRDS - 1)
    tokens: NDArray[np.int16] = (ids[place] * THIRDS + third).astype(np.int16)
    return tokens


def spoken_at(timing: Timing) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return for each semantic token the place of the symbol being said, and the time in s."""
    count = int(timing.ends_s[-1] * SEMANTIC_RATE_HZ)
    times = (np.arange(count) + 0.5) / SEMANTIC_RATE_HZ
    place = np.searchsorted(timing.ends_s, times, side="right").astype(np.int64)
    return np.minimum(place, len(timing.symbols) - 1), np.asarray(times, np.float64)


def quantise(points: Tensor, spread: float) -> tuple[Tensor, NDArray[np.int16]]:
    """Fit the books one after the other, each to what the earlier ones leave.

    Returns:
        books: float32 [8, 512, C]. codes: int16 [8, F].
    """
    generator = torch.Generator().manual_seed(0)
    rest, total = points.clone(), (points**2).mean()
    books, codes = [], []
    for k in range(NUM_CODEBOOKS):
        chosen = torch.randperm(len(rest), generator=generator)[:_SAMPLE]
        book = _k_means(rest[chosen], generator)
        nearest = torch.cat([_nearest(part, book) for part in torch.split(rest, 100_000)])
        rest -= book[nearest]
        books.append(book)
        codes.append(nearest.numpy().astype(np.int16))
        left = (rest**2).mean()
        print(
            f"tokens: {k + 1} books leave {float(left / total):.2%} unexplained, "
            f"{float(left.sqrt()) * spread:.3f} nat",
            flush=True,
        )
    return torch.stack(books), np.stack(codes)


def _k_means(points: Tensor, generator: torch.Generator) -> Tensor:
    def some(count: int) -> Tensor:
        return torch.randint(len(points), (count,), generator=generator)

    book = points[torch.randperm(len(points), generator=generator)[:CODEBOOK_SIZE]].clone()
    for turn in range(_ROUNDS):
        nearest = _nearest(points, book)
        counts = torch.bincount(nearest, minlength=CODEBOOK_SIZE).float()
        sums = torch.zeros_like(book).index_add_(0, nearest, points)
        used = counts > 0
        book[used] = sums[used] / counts[used, None]
        rare = counts < 15
        if rare.any() and turn < _ROUNDS - 3:
            book[rare] = points[some(int(rare.sum()))]  # a fresh start for entries hardly used
    return book


def _nearest(points: Tensor, book: Tensor) -> Tensor:
    return (2 * points @ book.T - (book**2).sum(1)).argmax(1)
