"""What touches the device for the codec: a piece of codes through one part of the network."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.engine.graphs import on, own_stream
from pipeline.engine.runner import Device
from pipeline.models.encodec import CodecDecoder, Memory, joined

# Clips whose pieces a GPU decodes at once: one fills a part of it, and its LSTM hardly any.
CLIPS = 8


@dataclass(frozen=True, slots=True, eq=False)
class CodecStep:
    """Parts [first, stop) of the network on one piece x [1, …]; memory: of the clip, by part."""

    first: int
    stop: int
    x: Tensor
    memory: list[Memory]


class CodecRunner:
    """The codec's decoder behind a turn-taker; fulfils `turn_taker.Network`."""

    def __init__(self, decoder: CodecDecoder, device: Device) -> None:
        self.decoder = decoder
        self.busy_s = 0.0
        self.batch_size = CLIPS if device.backend == "graph" else 1
        self._device, self._stream = device, own_stream(device.torch)
        # On a CPU a part at a time, so that others need not wait long for their turn. A GPU is
        # done with all of them in less than that.
        together = 1 if device.torch.type == "cpu" else decoder.num_parts
        self.starts = range(0, decoder.num_parts, together)
        self._together = together

    def step(self, start: int, x: Tensor, memory: list[Memory]) -> CodecStep:
        """Return what is to be done from part `start`, one of `starts`."""
        return CodecStep(start, start + self._together, x, memory)

    def kind(self, step: CodecStep) -> Hashable:
        """See `turn_taker.Network`. A clip's first piece is padded, later ones remember."""
        return step.first, step.x.shape, bool(step.memory[step.first])

    def run(self, steps: Sequence[CodecStep]) -> list[Tensor]:
        """See `turn_taker.Network`: each result on the CPU, if it is the sound."""
        one = steps[0]
        spare = self.batch_size - len(steps)
        with torch.inference_mode(), on(self._stream), self._device.turn() as turn:
            x = torch.cat([step.x for step in steps])
            # always so many: then the rounding of each is always the same
            x = functional.pad(x, (0, 0) * (x.dim() - 1) + (0, spare))
            for part in range(one.first, one.stop):
                memory = joined([step.memory[part] for step in steps], spare)
                x = self.decoder.run(part, x, memory)
                for layer, kept in memory.items():
                    for step, row in zip(steps, torch.split(kept, 1), strict=False):
                        step.memory[part][layer] = row
            if one.stop == self.decoder.num_parts:
                x = x.cpu()
        self.busy_s = turn.busy_s
        return list(torch.split(x, 1))[: len(steps)]
