"""Which voice is it? Pitch and spectral envelope against those of the teacher's voices.

A simple measure on purpose: it has to tell two voices apart, not to recognise people.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from training.nano.mel import HOP, log_mel
from training.nano.teacher import RATE_HZ

_LOWEST_HZ, _HIGHEST_HZ = 70.0, 400.0
_BANDS = 16  # of the envelope: 64 mel bands, four at a time


@dataclass(frozen=True, slots=True, eq=False)
class Speakers:
    """Voices by name: the mean of their clips' features, and the spread within a voice."""

    means: Mapping[str, NDArray[np.float64]]
    spread: NDArray[np.float64]

    @classmethod
    def of(cls, clips: Mapping[str, Iterable[NDArray[np.float32]]]) -> Self:
        """Learn voices from a few clips of each, 24 kHz."""
        found = {name: np.stack([features(c) for c in some]) for name, some in clips.items()}
        within = np.concatenate([rows - rows.mean(axis=0) for rows in found.values()])
        return cls(
            {name: rows.mean(axis=0) for name, rows in found.items()}, within.std(axis=0) + 1e-3
        )

    def distances(self, samples: NDArray[np.float32]) -> dict[str, float]:
        """Return how far a clip is from each voice, in spreads."""
        found = features(samples)
        return {
            name: float(np.sqrt((((found - mean) / self.spread) ** 2).mean()))
            for name, mean in self.means.items()
        }

    def nearest(self, samples: NDArray[np.float32]) -> str:
        distances = self.distances(samples)
        return min(distances, key=distances.__getitem__)


def features(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the log of the median pitch, four times over, and the envelope of loud frames."""
    whole = samples[: len(samples) // HOP * HOP]
    mel = log_mel(torch.from_numpy(np.ascontiguousarray(whole))).numpy()
    level = mel.mean(axis=1)
    loud = mel[level >= np.quantile(level, 0.5)].mean(axis=0)
    envelope = (loud - loud.mean()).reshape(_BANDS, -1).mean(axis=1)
    pitch = np.full(4, np.log(median_pitch_hz(samples)))
    return np.concatenate([pitch, envelope]).astype(np.float64)


def median_pitch_hz(samples: NDArray[np.float32]) -> float:
    """Return the median over voiced frames of 40 ms, by autocorrelation; 1 Hz if none is voiced."""
    size, step = RATE_HZ // 25, RATE_HZ // 100
    if len(samples) < size:
        return 1.0
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[::step]
    frames = frames - frames.mean(axis=1, keepdims=True)
    spectrum = np.fft.rfft(frames * np.hanning(size), 2 * size, axis=1)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2, axis=1)
    energy = correlation[:, :1]
    low, high = int(RATE_HZ / _HIGHEST_HZ), int(RATE_HZ / _LOWEST_HZ)
    lags = correlation[:, low:high] / np.maximum(energy, 1e-9)
    voiced = (lags.max(axis=1) > 0.5) & (energy[:, 0] > 0.05 * energy.max())
    if not voiced.any():
        return 1.0
    return float(np.median(RATE_HZ / (low + lags[voiced].argmax(axis=1))))
