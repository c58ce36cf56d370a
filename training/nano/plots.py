"""Pictures for the model card: how the losses fell, and spectrograms beside the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from training.nano.teacher import RATE_HZ
from training.nano.trainer import read_log

mpl.use("Agg")
from matplotlib import pyplot as plt


def plot_losses(weights: Path, target: Path) -> None:
    """Draw each network's losses over its steps, those on unseen clips too."""
    logs = sorted(weights.glob("*.log.jsonl"))
    figure, axes = plt.subplots(1, len(logs), figsize=(3.6 * len(logs), 2.8), squeeze=False)
    for axis, path in zip(axes[0], logs, strict=True):
        lines = list(read_log(path))
        for part in ("train", "validation"):
            axis.plot([e["step"] for e in lines], [e[part]["loss"] for e in lines], label=part)
        axis.set_title(path.name.removesuffix(".log.jsonl"))
        axis.set_xlabel("step")
        axis.set_ylim(bottom=0, top=1.1 * max(e["validation"]["loss"] for e in lines[2:]))
        axis.legend(frameon=False)
    axes[0][0].set_ylabel("loss")
    _save(figure, target)


def plot_spectrograms(clips: Sequence[tuple[str, NDArray[np.float32]]], target: Path) -> None:
    """Draw clips under their titles, 0 … 8 kHz, 80 dB."""
    figure, axes = plt.subplots(len(clips), 1, figsize=(9, 2.1 * len(clips)), squeeze=False)
    for axis, (title, samples) in zip(axes[:, 0], clips, strict=True):
        peak = float(np.abs(samples).max())
        axis.specgram(samples / peak, NFFT=512, Fs=RATE_HZ, noverlap=384, vmin=-130, vmax=-50)
        axis.set_ylim(0, 8000)
        axis.set_ylabel("Hz")
        axis.set_title(title, loc="left", fontsize=9)
    axes[-1, 0].set_xlabel("s")
    _save(figure, target)


def _save(figure: Any, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(target, dpi=80)
    plt.close(figure)
