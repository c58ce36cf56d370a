"""The EnCodec decoder: codes → samples, in fp32, a piece at a time.

The network is `SEANetDecoder` of encodec 0.1.1 (transformers: `EncodecDecoder`): causal
convolutions padded on the left by reflection, two LSTM layers, transposed convolutions cut on
the right. Weight norm arrives folded away, since it is constant.

Being causal it can be run in pieces, if every layer remembers the end of its last input; only the
very start, which is reflected, must be there at once. So memory does not grow with a clip's
length, and the sound can leave while the rest is made. Equal to transformers' in one shot within
1e-6; docs/decisions/0006 says why it is written out here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipeline.models.gpt import TensorReader
from pipeline.spec import CodecSpec

# What a layer keeps of each clip between two pieces, by layer: [B, …].
Memory = dict[object, Tensor]
Part = Callable[[Tensor, Memory], Tensor]
# 1.7 s of sound. The first piece must hold the 7 frames that the reflected start needs, unless
# the whole clip is shorter.
PIECE_FRAMES = 128


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

    @property
    def num_codebooks(self) -> int:
        return len(self._codebooks)

    @property
    def num_parts(self) -> int:
        """Parts of the network, to be run one after the other on each piece."""
        return len(self._decoder.parts)

    def decode(self, codes: NDArray[np.int32]) -> Iterator[NDArray[np.float32]]:
        """Decode codes [K, F], K up to `num_codebooks`, in pieces of up to 128 frames.

        Yields:
            float32 [frames of the piece * hop]. The pieces' lengths are fixed, so that the
            rounding of a clip depends on its codes alone.
        """
        memory = self.new_memory()
        for x in self.pieces(codes):
            for part in range(self.num_parts):
                x = self.run(part, x, memory[part])
            yield x[0, 0].cpu().numpy()

    def new_memory(self) -> list[Memory]:
        """Return what a clip's parts remember before its first piece."""
        return [{} for _ in self._decoder.parts]

    def pieces(self, codes: NDArray[np.int32]) -> list[Tensor]:
        """Cut codes [K, F] into what `run` takes: int64 [1, K, up to 128], on the CPU."""
        whole = torch.from_numpy(codes.astype(np.int64))[None]
        return list(torch.split(whole, PIECE_FRAMES, dim=-1))

    @torch.inference_mode()
    def run(self, part: int, x: Tensor, memory: Memory) -> Tensor:
        """Run a part on B pieces of one length: codes [B, K, F] ▸ … ▸ sound [B, 1, N].

        memory: of this part, of clips that are all at their first piece, or all past it; changed.
        """
        if part == 0:
            x = self._latent(x.to(self._device))
        with torch_threads(self._num_threads):
            return self._decoder.parts[part](x, memory)

    def _latent(self, codes: Tensor) -> Tensor:
        latent = self._codebooks[0][codes[:, 0]]  # [B, F, C]
        for codebook, row in zip(self._codebooks[1:], codes.unbind(1)[1:], strict=False):
            latent = latent + codebook[row]
        return latent.transpose(1, 2)


def joined(memories: Sequence[Memory], spare: int = 0) -> Memory:
    """Return the memory of clips side by side, and of `spare` more that remember zeros."""
    return {
        layer: functional.pad(
            torch.cat([memory[layer] for memory in memories]),
            (0, 0) * (kept.dim() - 1) + (0, spare),
        )
        for layer, kept in memories[0].items()
    }


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
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

    @property
    def parts(self) -> list[Part]:
        """Return what runs one after the other; each takes what the one before it gives."""
        ups = [partial(self._upsampled, *stage) for stage in self._stages]
        return [self._begun, *ups, self._ended]

    def _begun(self, latent: Tensor, memory: Memory) -> Tensor:
        x = self._first(latent, memory)  # [1, C, F]
        kept = memory.get(self._lstm)  # [B, 2, L, C]: hidden and cell state of each layer
        state = None if kept is None else tuple(kept.permute(1, 2, 0, 3).contiguous())
        # Thousands of products that are too small to share: a second thread halves their time at
        # best, and where others want the cores it makes it many times as long.
        with torch_threads(1 if x.device.type == "cpu" else None):
            y, state = self._lstm(x.permute(2, 0, 1), state)
        memory[self._lstm] = torch.stack(state).permute(2, 0, 1, 3)
        through: Tensor = x + y.permute(1, 2, 0)
        return through

    @staticmethod
    def _upsampled(
        up: _TransposedConv, blocks: list[_ResidualBlock], x: Tensor, memory: Memory
    ) -> Tensor:
        x = up(functional.elu(x), memory)
        for block in blocks:
            x = block(x, memory)
        return x

    def _ended(self, x: Tensor, memory: Memory) -> Tensor:
        return self._last(functional.elu(x), memory)


class _Conv:
    """A causal convolution: the left is padded with the reflected start."""

    def __init__(self, weight: Tensor, bias: Tensor, dilation: int) -> None:
        self._weight, self._bias, self._dilation = weight, bias, dilation
        self._padding = (weight.shape[-1] - 1) * dilation

    def __call__(self, x: Tensor, memory: Memory) -> Tensor:
        if self._padding:
            past = memory.get(self)
            x = self._reflected(x) if past is None else torch.cat([past, x], dim=-1)
            memory[self] = x[..., -self._padding :].clone()  # not a view that holds all of it
        return functional.conv1d(x, self._weight, self._bias, dilation=self._dilation)

    def _reflected(self, x: Tensor) -> Tensor:
        """Pad the start; one too short to reflect is lengthened by zeros first, and cut again."""
        length = x.shape[-1]
        x = functional.pad(x, (0, max(0, self._padding + 1 - length)))
        return functional.pad(x, (self._padding, 0), mode="reflect")[..., : self._padding + length]


class _TransposedConv:
    """A causal transposed convolution: what reaches beyond the input's end is cut."""

    def __init__(self, weight: Tensor, bias: Tensor, stride: int) -> None:
        self._weight, self._bias, self._stride = weight, bias, stride
        self._overlap = (weight.shape[-1] - 1) // stride  # inputs that reach into the next output

    def __call__(self, x: Tensor, memory: Memory) -> Tensor:
        past = memory.get(self)
        before = 0 if past is None else past.shape[-1]
        x = x if past is None else torch.cat([past, x], dim=-1)
        memory[self] = x[..., -self._overlap :].clone()
        y = functional.conv_transpose1d(x, self._weight, self._bias, stride=self._stride)
        return y[..., before * self._stride : x.shape[-1] * self._stride]


class _ResidualBlock:
    def __init__(self, wide: _Conv, narrow: _Conv, shortcut: _Conv | None) -> None:
        self._wide, self._narrow, self._shortcut = wide, narrow, shortcut

    def __call__(self, x: Tensor, memory: Memory) -> Tensor:
        inner = self._wide(functional.elu(x), memory)
        inner = self._narrow(functional.elu(inner), memory)
        return inner + (x if self._shortcut is None else self._shortcut(x, memory))


def _read_lstm(read: TensorReader, spec: CodecSpec, device: torch.device) -> torch.nn.LSTM:
    width = spec.num_filters * 2 ** len(spec.upsampling_ratios)
    with torch.device("meta"):
        lstm = torch.nn.LSTM(width, width, spec.num_lstm_layers)
    weights = {name: read(f"decoder.layers.1.lstm.{name}") for name in lstm.state_dict()}
    lstm.load_state_dict(weights, assign=True)
    return lstm.to(device).eval()
