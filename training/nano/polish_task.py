"""The codec's last steps: against a discriminator, which hears what magnitudes do not tell.

The decoder alone, judged by magnitudes, buzzes: phases are its own invention. A small
discriminator on complex spectra at three resolutions (as EnCodec's own, Défossez et al. 2022,
section 3.4) makes it invent likelier ones. Spectral losses stay, so that words do not suffer.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from pipeline.spec import CodecSpec
from training.nano.codec_task import WARM_UP_SAMPLES, CodecTask, spectral_loss
from training.nano.dataset import Dataset
from training.nano.trainer import Split

_WINDOWS = (512, 1024, 2048)
_WIDTH = 8
_ADVERSARIAL, _FEATURES = 0.2, 1.0  # weights beside the spectral loss, which is near 1


class Discriminator(nn.Module):
    """Samples [B, N] → a map of scores for each resolution, with what led to it."""

    def __init__(self) -> None:
        super().__init__()
        self.stacks = nn.ModuleList(
            nn.ModuleList(
                [
                    *(
                        nn.Conv2d(i or 2, _WIDTH, (3, 9), stride=(1, 2), padding=(1, 4))
                        for i in (0, _WIDTH, _WIDTH, _WIDTH)
                    ),
                    nn.Conv2d(_WIDTH, 1, 3, padding=1),
                ]
            )
            for _ in _WINDOWS
        )

    def forward(self, samples: Tensor) -> list[list[Tensor]]:
        found = []
        for window, stack in zip(_WINDOWS, self.stacks, strict=True):
            spectrum = torch.stft(
                samples,
                window,
                window // 4,
                window=torch.hann_window(window, device=samples.device),
                normalized=True,
                return_complex=True,
            )
            x = torch.view_as_real(spectrum).permute(0, 3, 2, 1)  # [B, 2, T, frequency]
            maps = []
            for i, layer in enumerate(cast(nn.ModuleList, stack)):
                x = layer(x if i == 0 else functional.leaky_relu(x, 0.2))
                maps.append(x)
            found.append(maps)
        return found


class PolishTask(CodecTask):
    """A trained decoder, and the discriminator that it has to please, in one step each."""

    name = "polish"

    def __init__(self, dataset: Dataset, spec: CodecSpec, batch: int, trained: Path) -> None:
        super().__init__(dataset, spec, batch)
        self.decoder.load_state_dict(torch.load(trained, map_location="cpu", weights_only=True))
        self.model = nn.ModuleDict({"decoder": self.decoder, "judge": Discriminator()})

    def optimizers(self) -> list[torch.optim.Optimizer]:
        rates = {"decoder": 3e-4, "judge": 6e-4}
        return [
            torch.optim.AdamW(
                cast(nn.ModuleDict, self.model)[name].parameters(), rate, (0.8, 0.99), 1e-8, 0.0
            )
            for name, rate in rates.items()
        ]

    def loss(self, rng: np.random.Generator, split: Split) -> tuple[Tensor, dict[str, float], int]:
        codes, wanted = self._segments(rng, split)
        made = self._decode(self._latent(codes, len(self._books)))
        made, wanted = made[:, WARM_UP_SAMPLES:], wanted[:, WARM_UP_SAMPLES:]
        spectral, facts = spectral_loss(made, wanted)
        judge = cast(nn.ModuleDict, self.model)["judge"]
        # With its weights held still, for the decoder's sake; then on its own behalf.
        still = {name: weight.detach() for name, weight in judge.named_parameters()}
        real = judge(wanted)
        judged = functional_call(judge, still, (made,))
        pleased = torch.stack([functional.relu(1 - maps[-1]).mean() for maps in judged]).mean()
        likeness = torch.stack(
            [
                (ours - theirs.detach()).abs().mean() / theirs.detach().abs().mean().clamp(min=1e-3)
                for mine, others in zip(judged, real, strict=True)
                for ours, theirs in zip(mine[:-1], others[:-1], strict=True)
            ]
        ).mean()
        fake = judge(made.detach())
        told = torch.stack(
            [
                functional.relu(1 - maps[-1]).mean() + functional.relu(1 + others[-1]).mean()
                for maps, others in zip(real, fake, strict=True)
            ]
        ).mean()
        facts |= {"features": float(likeness.detach()), "told apart": float(told.detach())}
        total = spectral + _ADVERSARIAL * pleased + _FEATURES * likeness + told
        return total, facts, codes[:, 0].numel()
