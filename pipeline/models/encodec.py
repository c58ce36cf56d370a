"""The EnCodec decoder: codes → samples, in fp32.

The network is `SEANetDecoder` of encodec 0.1.1 (transformers: `EncodecDecoder`): causal
convolutions padded on the left by reflection, two LSTM layers, transposed convolutions cut on
the right. Weight norm arrives folded away, since it is constant. Equal to transformers' within
1e-6; docs/decisions/0006 says why it is written out here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipeline.models.gpt import TensorReader
from pipeline.spec import CodecSpec


class CodecDecoder:
    """Residual vector quantiser and SEANet decoder on one device.

    num_threads: on the CPU the last bits of a sum depend on how many threads share it, so a
    fixed number gives the same bytes on every machine; None leaves it to the process.
    """

    def __init__(
        self,
        read: TensorReader,
        spec: CodecSpec,
        device: torch.device,
        num_threads: int | None = None,
    ) -> None:
        self.sample_rate = spec.sample_rate
        self._device, self._num_threads = device, num_threads
        self._codebooks = [read(f"codebooks.{k}").to(device) for k in range(spec.num_codebooks)]
        self._decoder = _Decoder(read, spec, device)

    @torch.inference_mode()
    def __call__(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Decode codes [K, F], K up to the model's codebooks, into float32 [F * hop]."""
        on_device = torch.from_numpy(codes.astype(np.int64)).to(self._device)
        latent = self._codebooks[0][on_device[0]]  # [F, C]
        for codebook, row in zip(self._codebooks[1:], on_device[1:], strict=False):
            latent = latent + codebook[row]
        with _threads(self._num_threads):
            samples: NDArray[np.float32] = self._decoder(latent.T[None])[0, 0].cpu().numpy()
        return samples


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let torch use this many threads for a while."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Decoder:
    """Latents [1, C, F] → samples [1, 1, F * hop]."""

    def __init__(self, read: TensorReader, spec: CodecSpec, device: torch.device) -> None:
        def conv(path: str, dilation: int = 1) -> _Conv:
            weight, bias = read(f"decoder.{path}.weight"), read(f"decoder.{path}.bias")
            return _Conv(weight.to(device), bias.to(device), dilation)

        # upstream's modules stand in one list, activations included: hence these indices
        self._first, self._lstm = conv("layers.0.conv"), _read_lstm(read, spec, device)
        self._stages: list[tuple[_TransposedConv, list[_ResidualBlock]]] = []
        index = 2
        for ratio in spec.upsampling_ratios:
            path = f"decoder.layers.{index + 1}.conv"
            up = _TransposedConv(
                read(f"{path}.weight").to(device), read(f"{path}.bias").to(device), ratio
            )
            blocks = []
            for depth in range(spec.num_residual_layers):
                block = f"layers.{index + 2 + depth}"
                blocks.append(
                    _ResidualBlock(
                        conv(f"{block}.block.1.conv", spec.dilation_growth_rate**depth),
                        conv(f"{block}.block.3.conv"),
                        conv(f"{block}.shortcut.conv") if spec.use_conv_shortcut else None,
                    )
                )
            self._stages.append((up, blocks))
            index += 2 + spec.num_residual_layers
        self._last = conv(f"layers.{index + 1}.conv")

    def __call__(self, latent: Tensor) -> Tensor:
        x = self._first(latent)  # [1, C, F]
        x = x + self._lstm(x.permute(2, 0, 1))[0].permute(1, 2, 0)
        for up, blocks in self._stages:
            x = up(functional.elu(x))
            for block in blocks:
                x = block(x)
        return self._last(functional.elu(x))


class _Conv:
    """A causal convolution: the left is padded with the reflected start."""

    def __init__(self, weight: Tensor, bias: Tensor, dilation: int) -> None:
        self._weight, self._bias, self._dilation = weight, bias, dilation
        self._padding = (weight.shape[-1] - 1) * dilation

    def __call__(self, x: Tensor) -> Tensor:
        length = x.shape[-1]
        if self._padding:
            # a start too short to reflect is lengthened by zeros first, and cut again
            x = functional.pad(x, (0, max(0, self._padding + 1 - length)))
            x = functional.pad(x, (self._padding, 0), mode="reflect")[..., : self._padding + length]
        return functional.conv1d(x, self._weight, self._bias, dilation=self._dilation)


class _TransposedConv:
    """A causal transposed convolution: what reaches beyond the input's end is cut."""

    def __init__(self, weight: Tensor, bias: Tensor, stride: int) -> None:
        self._weight, self._bias, self._stride = weight, bias, stride

    def __call__(self, x: Tensor) -> Tensor:
        y = functional.conv_transpose1d(x, self._weight, self._bias, stride=self._stride)
        return y[..., : x.shape[-1] * self._stride]


class _ResidualBlock:
    def __init__(self, wide: _Conv, narrow: _Conv, shortcut: _Conv | None) -> None:
        self._wide, self._narrow, self._shortcut = wide, narrow, shortcut

    def __call__(self, x: Tensor) -> Tensor:
        inner = self._narrow(functional.elu(self._wide(functional.elu(x))))
        return inner + (x if self._shortcut is None else self._shortcut(x))


def _read_lstm(read: TensorReader, spec: CodecSpec, device: torch.device) -> torch.nn.LSTM:
    width = spec.num_filters * 2 ** len(spec.upsampling_ratios)
    with torch.device("meta"):
        lstm = torch.nn.LSTM(width, width, spec.num_lstm_layers)
    weights = {name: read(f"decoder.layers.1.lstm.{name}") for name in lstm.state_dict()}
    lstm.load_state_dict(weights, assign=True)
    return lstm.to(device).eval()
