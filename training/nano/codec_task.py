"""What the codec's decoder learns: sound from the sum of codebook entries.

Most of the time the later books are what the fine model makes of the first two, since that is all
that the decoder will ever be given (decision 23).

Losses on magnitudes alone, at four resolutions: the codes hold no phase, so there is none to be
right about. transformers' `EncodecDecoder` is the network, so that its names are the checkpoint's.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pipeline.spec import BarkSpec
from training.nano.dataset import Dataset
from training.nano.gpt import FineGPT
from training.nano.mel import HOP, filter_bank
from training.nano.trainer import Split, Task, autocast, device

_SEGMENT = 64  # frames
# The start of a segment is not judged: the network has no past there.
_WARM_UP_SAMPLES = 4 * HOP
_WINDOWS = (256, 512, 1024, 2048)
# Shares of steps on the first few books alone, and on books that the fine model completed.
_FEW, _COMPLETED = 0.15, 0.6


class CodecTask(Task):
    """Codes → samples: true ones, only the first few books of them, or completed by `fine`."""

    name = "codec"

    def __init__(self, dataset: Dataset, spec: BarkSpec, batch: int, fine: FineGPT) -> None:
        from transformers import EncodecConfig
        from transformers.models.encodec.modeling_encodec import EncodecDecoder

        self.dataset, self.spec, self.batch = dataset, spec, batch
        self._fine = fine.to(device()).eval()
        codec = spec.codec
        self.decoder: nn.Module = EncodecDecoder(
            EncodecConfig(
                num_filters=codec.num_filters,
                hidden_size=codec.latent_dim,
                codebook_dim=codec.codebook_dim,
                upsampling_ratios=list(codec.upsampling_ratios),
                num_lstm_layers=codec.num_lstm_layers,
                num_residual_layers=codec.num_residual_layers,
            )
        )
        self.model = self.decoder
        self._books = torch.from_numpy(dataset.books).to(device())

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.AdamW(self.model.parameters(), 1.5e-3, (0.8, 0.99), weight_decay=0.0)]

    def loss(self, rng: np.random.Generator, split: Split) -> tuple[Tensor, dict[str, float], int]:
        codes, wanted = self._segments(rng, split)
        count, kind = len(self._books), rng.random()
        if kind < _FEW:
            count = int(rng.integers(2, count))
        elif kind < _FEW + _COMPLETED:
            codes = self._completed(codes)
        made = self._decode(self._latent(codes, count))
        made, wanted = made[:, _WARM_UP_SAMPLES:], wanted[:, _WARM_UP_SAMPLES:]
        return *spectral_loss(made, wanted), codes[:, 0].numel()

    def _segments(self, rng: np.random.Generator, split: Split) -> tuple[Tensor, Tensor]:
        """Draw codes int64 [B, K, 64] and their samples float32 [B, 64 * 320]."""
        codes: list[NDArray[np.int32]] = []
        samples: list[NDArray[np.int16]] = []
        while len(codes) < self.batch:
            item = self.dataset[self.dataset.draw(rng, split)]
            frames = item.codes.shape[1]
            if frames < _SEGMENT:
                continue
            # Starts are hard, and a clip has but one: seen more often than by chance.
            first = 0 if rng.random() < 0.15 else int(rng.integers(0, frames - _SEGMENT + 1))
            codes.append(item.codes[:, first : first + _SEGMENT])
            samples.append(item.samples[first * HOP : (first + _SEGMENT) * HOP])
        return (
            torch.from_numpy(np.stack(codes).astype(np.int64)).to(device()),
            torch.from_numpy(np.stack(samples).astype(np.float32) / 32767).to(device()),
        )

    @torch.no_grad()
    def _completed(self, codes: Tensor) -> Tensor:
        """Replace the later books by the fine model's likeliest codes; [B, K, T] as given."""
        done = codes.transpose(1, 2).clone()  # [B, T, K]
        for k in range(self.spec.coarse.num_codebooks, done.shape[2]):
            done[..., k] = self.spec.fine_pad_id
            with autocast():
                logits = self._fine(done[..., : k + 1], k)
            done[..., k] = logits[..., : self.spec.codebook_size].argmax(-1)
        return done.transpose(1, 2)

    def _latent(self, codes: Tensor, count: int) -> Tensor:
        """Return the sum of the first entries, [B, C, F]."""
        chosen = (functional.embedding(codes[:, k], self._books[k]) for k in range(count))
        return cast(Tensor, sum(chosen)).transpose(1, 2)

    def _decode(self, latent: Tensor) -> Tensor:
        """Return samples [B, N]; the last layers in fp32, bf16's steps being audible there."""
        layers = list(cast(nn.ModuleList, self.decoder.layers))
        with autocast():
            for layer in layers[:-3]:
                latent = layer(latent)
        latent = latent.float()
        for layer in layers[-3:]:
            latent = layer(latent)
        return latent[:, 0]


def spectral_loss(made: Tensor, wanted: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Compare magnitudes: log distance and spectral convergence at each resolution, and log-mel.

    Source of the pair: Yamamoto et al. 2020, "Parallel WaveGAN", section 2.2.
    """
    total, mel = torch.zeros((), device=made.device), torch.zeros((), device=made.device)
    for window in _WINDOWS:
        ours, theirs = _magnitudes(made, window), _magnitudes(wanted, window)
        total = total + (torch.log(ours + 1e-2) - torch.log(theirs + 1e-2)).abs().mean()
        total = total + (ours - theirs).norm() / theirs.norm().clamp(min=1e-2)
        if window == 1024:
            bank = filter_bank(str(made.device))
            mel = (
                (
                    (torch.log((bank @ ours).clamp(min=0.03)))
                    - torch.log((bank @ theirs).clamp(min=0.03))
                )
                .abs()
                .mean()
            )
    return total / len(_WINDOWS) + mel, {"mel": float(mel.detach())}


def _magnitudes(samples: Tensor, window: int) -> Tensor:
    spectrum = torch.stft(
        samples,
        window,
        window // 4,
        window=torch.hann_window(window, device=samples.device),
        return_complex=True,
    )
    return (spectrum.real**2 + spectrum.imag**2 + 1e-7).sqrt()
