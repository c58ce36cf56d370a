"""Log-mel spectra: the space in which nano's codebooks quantise sound.

A codebook entry is a point of this space (normalised), so codes carry no phase: the codec's
decoder has to invent it, and the transformers need not learn it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

BANDS = 64
HOP = 320  # 75 frames a second at 24 kHz
_WINDOW = 1024
_FLOOR = 0.03  # silence is flat below this


def log_mel(samples: Tensor) -> Tensor:
    """Turn float32 [N], N = F * 320, 24 kHz, into [F, 64]; frame f is centred at 320 f + 160."""
    pad = _WINDOW // 2 - HOP // 2
    window = torch.hann_window(_WINDOW, device=samples.device)
    spectrum = torch.stft(
        torch.nn.functional.pad(samples, (pad, pad + HOP)),
        _WINDOW,
        HOP,
        window=window,
        center=False,
        return_complex=True,
    ).abs()[:, : len(samples) // HOP]
    return torch.log(torch.clamp(filter_bank(str(samples.device)) @ spectrum, min=_FLOOR)).T


@cache
def filter_bank(device: str = "cpu") -> Tensor:
    """Return [64, 513] triangles, evenly spaced on the mel scale from 30 to 11 800 Hz, area 1."""
    frequencies = np.linspace(0, 12_000, _WINDOW // 2 + 1)
    lowest, highest = (2595 * np.log10(1 + f / 700) for f in (30, 11_800))
    corners = 700 * (10 ** (np.linspace(lowest, highest, BANDS + 2) / 2595) - 1)
    below, centre, above = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising = (frequencies - below) / (centre - below)
    falling = (above - frequencies) / (above - centre)
    bank = np.clip(np.minimum(rising, falling), 0, None)
    bank /= bank.sum(axis=1, keepdims=True) + 1e-9
    return torch.tensor(bank, dtype=torch.float32, device=device)
