"""A mark in the sound itself that says it is synthetic, and finding it again.

Resemble AI's Perth (MIT), a network that adds to the parts of speech below 2 kHz what the voice
hides. It says one thing only, that it is there; anyone who has the package can find it, and no one
needs our store for that. It outlives what metadata does not: lossy formats, cuts, other rates and
speeds, but not another pitch; and low pure tones are taken for it (docs/decisions/0025).

The extra `watermark` brings it. Its wheel (1.0.1) imports three packages that it does not declare:
`pkg_resources` (gone from setuptools since 82) for one path, librosa (which brings numba) for
resampling, which is done before it here, and torchaudio (no build of which loads beside our torch)
for three small classes. Stand-ins take their places while it is imported, and only then: also where
the real ones are installed, so that a sound does not depend on that.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import math
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.audio import resample
from pipeline.errors import InvalidRequest
from pipeline.models.encodec import torch_threads
from pipeline.payloads import Float32, Waveform

FOUND = 0.5  # a confidence from here on means that the mark is there: Perth's own rounding

_RATE_HZ = 32_000  # of Perth's network
_WINDOW = 2048  # of its spectrogram: its output ends up to that much early
_BLOCK_S = 30.0  # of sound looked at in one piece: the spectrogram takes 6 MB a second
_LOADING = threading.Lock()


class Watermark:
    """Perth's network, on the CPU. Thread-safe; the network is loaded once in a process.

    Attributes:
        name: what the manifest says, `perth 1.0.1`.
        identity: what decides the marked samples beside the unmarked ones: the name, and what
            rounds the network's sums, which is this process even where the stages are elsewhere.
    """

    def __init__(self) -> None:
        """Load it.

        Raises:
            InvalidRequest: it is not installed; says how to.
        """
        self._perth = _load()
        self.name = f"perth {importlib.metadata.version('resemble-perth')}"
        capability = torch.backends.cpu.get_cpu_capability().lower()
        self.identity = f"{self.name} torch-{torch.__version__.split('+')[0]}-{capability}"

    @staticmethod
    def is_installed() -> bool:
        """Say whether the extra is there; loads nothing."""
        return importlib.util.find_spec("perth") is not None

    def mark(self, samples: Float32, sample_rate: int) -> Float32:
        """Put the mark into a sound. Blocks, for some 1 % of the sound's length on one core.

        Args:
            samples: float32 [N], N > 0, mono, nominally [-1, 1].
            sample_rate: Hz.

        Returns:
            float32 [N], aligned with the input, never beyond [-1, 1]: where the mark would raise
            the peak above that, the whole is made quieter. The same samples give the same bytes,
            whatever runs beside.

        Raises:
            InvalidRequest: no samples, not float32 [N], NaN or infinity.
        """
        source = np.pad(resample(samples, sample_rate, _RATE_HZ), (0, _WINDOW))
        with torch.inference_mode(), torch_threads(1):
            told = self._perth.apply_watermark(source, _RATE_HZ)
        # Only what was added goes back to the sound's own rate: all else stays as it was.
        added = np.pad(told, (0, len(source) - len(told))) - source
        marked = samples + _fitted(resample(added, _RATE_HZ, sample_rate), len(samples))
        peak = float(np.abs(marked).max())
        return marked / np.float32(peak) if peak > 1 else marked

    def finish(self, sound: Waveform) -> Waveform:
        """Mark a segment's sound; what `synthesize` takes as its `finish`."""
        return Waveform(self.mark(sound.samples, sound.sample_rate), sound.sample_rate)

    def confidence(self, samples: Float32, sample_rate: int) -> float:
        """Look for the mark in a sound, which may come from anyone.

        Args:
            samples: float32 [N], N > 0, mono, at any level.
            sample_rate: Hz.

        Returns:
            0 (not there) … 1 (there), `FOUND` or more where it is more likely than not. Long
            sounds are looked at in blocks of up to 30 s, and the surest counts: a mark in a part
            of a sound is a mark. Silence has none.

        Raises:
            InvalidRequest: no samples, not float32 [N], NaN or infinity.
        """
        found = 0.0
        sound = resample(samples, sample_rate, _RATE_HZ)
        for block in np.array_split(sound, math.ceil(len(sound) / (_BLOCK_S * _RATE_HZ))):
            padded = np.pad(block, (0, max(0, _WINDOW - len(block))))
            with torch.inference_mode(), torch_threads(1):
                told = float(self._perth.get_watermark(padded, _RATE_HZ, round=False))
            if told == told:  # in silence it is a mean of nothing, NaN
                found = max(found, told)
        return found


def _fitted(samples: Float32, num_samples: int) -> Float32:
    return np.pad(samples, (0, max(0, num_samples - len(samples))))[:num_samples]


def _load() -> Any:
    with _LOADING:  # sys.modules and standard output are the whole process's
        return _network()


@cache
def _network() -> Any:
    """Import Perth and read its network, which lies in the wheel."""
    try:
        with _stand_ins(), contextlib.redirect_stdout(io.StringIO()):  # it says what it loads
            # not from `perth`, which holds None where this fails
            from perth.perth_net.perth_net_implicit.perth_watermarker import (
                PerthImplicitWatermarker,
            )

            return PerthImplicitWatermarker(device="cpu")
    except ImportError as error:
        raise InvalidRequest(
            f"watermarks need Perth: pip install 'bark-serve[watermark]' ({error})"
        ) from None


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    """Put stand-ins where Perth looks for packages that it does not need; then take them away."""
    there = {
        "pkg_resources": _module("pkg_resources", resource_filename=_resource_filename),
        "librosa": _module("librosa", resample=None),  # never called: our rate is the network's
        "torchaudio": _module("torchaudio", __path__=[]),
        "torchaudio.transforms": _module(
            "torchaudio.transforms",
            Spectrogram=_Spectrogram,
            InverseSpectrogram=_InverseSpectrogram,
            TimeStretch=_TimeStretch,
        ),
    }
    before = {name: sys.modules.get(name) for name in there}
    sys.modules.update(there)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _module(name: str, **content: Any) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(content)
    return module


def _resource_filename(package: str, name: str) -> str:
    return str(Path(str(sys.modules[package].__file__)).parent / name)


class _Spectrogram(nn.Module):
    """torchaudio's, of the arguments that Perth gives: complex, centred, reflected at the ends."""

    window: Tensor

    def __init__(
        self,
        n_fft: int,
        win_length: int,
        hop_length: int,
        window_fn: Callable[[int], Tensor],
        **_: object,
    ) -> None:
        super().__init__()
        self._n_fft, self._hop_length = n_fft, hop_length
        self.register_buffer("window", window_fn(win_length))  # the checkpoint has it, too

    def forward(self, samples: Tensor) -> Tensor:
        return torch.stft(
            samples, self._n_fft, self._hop_length, window=self.window, return_complex=True
        )


class _InverseSpectrogram(_Spectrogram):
    def forward(self, spectrum: Tensor) -> Tensor:
        return torch.istft(spectrum, self._n_fft, self._hop_length, window=self.window)


class _TimeStretch(nn.Module):
    """Holds what the checkpoint has for it; used in training alone."""

    def __init__(self, n_freq: int, hop_length: int) -> None:
        super().__init__()
        advance = torch.linspace(0, math.pi * hop_length, n_freq)
        self.register_buffer("phase_advance", advance[:, None])
