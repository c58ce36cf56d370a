"""What touches the device for the fine model: hidden vectors in, logits out, a window a pass."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.engine import native_gpt, native_sampler, sampler
from pipeline.engine.device_sampler import upload
from pipeline.engine.graphs import Capture, capture, on, own_stream
from pipeline.engine.runner import Device, as_numpy, load_native
from pipeline.models.embedding import Embedding
from pipeline.models.gpt import BidirectionalGPT, TensorReader
from pipeline.spec import GPTShape, Precision

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

# Windows that a graph of the fine model takes. One has rows enough for the products to be bound by
# arithmetic; a second one fills what the first leaves idle at its ends.
WINDOWS = 2


@dataclass(frozen=True, slots=True, eq=False)
class FinePass:
    """A pass over one window.

    known: float32 [T, d], the sum of `embed` over codebooks 0…codebook-1. codes: int64 [T], of
    `codebook`, which is predicted from position `first` on.
    """

    known: Float32
    codes: Int64
    codebook: int
    first: int


class FineRunner:
    """The fine model: a table and (but for the first) a head for each codebook.

    Fulfils `turn_taker.Network`.
    """

    def __init__(
        self,
        read: TensorReader,
        shape: GPTShape,
        *,
        device: Device,
        precision: Precision,
        num_codebooks: int,
        num_given: int,
        codebook_size: int,
        window: int,
        capture: Capture = capture,
    ) -> None:
        self.num_codebooks, self.num_given, self.window = num_codebooks, num_given, window
        self.busy_s = 0.0
        self.batch_size = WINDOWS if device.backend == "graph" else 1
        self._device = device
        is_native = device.backend == "native"
        self.draw_rows = native_sampler.draw_rows if is_native else sampler.draw_rows
        self._tables = [
            Embedding(read(f"token_embeddings.{k}.weight"), precision) for k in range(num_codebooks)
        ]
        self._places = Embedding(read("position_embedding.weight"), "fp32")(np.arange(window))
        num_heads = num_codebooks - num_given
        self._native: native_gpt.NativeGPT | None = None
        if is_native:
            self._native = native_gpt.NativeGPT(
                num_layers=shape.num_layers,
                num_heads=shape.num_heads,
                width=shape.width,
                precision=precision,
                num_slots=1,
                max_positions=window,
                causal=False,
                num_heads_out=num_heads,
            )
            load_native(self._native, read, shape, norm_bias=True)
            for head in range(num_heads):
                weight = read(f"heads.{head}.weight")[:codebook_size]
                self._native.load_head(head, as_numpy(weight))
            return
        self._torch = BidirectionalGPT(
            read,
            shape,
            num_heads_out=num_heads,
            head_stop=codebook_size,
            precision=precision,
            device=device.torch,
        )
        if device.backend == "graph":
            # always of all windows: then a product's shape, and so its rounding, is always one
            self._stream = own_stream(device.torch)
            both = (WINDOWS, window, shape.width)
            self._hidden, self._through = (torch.zeros(both, device=device.torch) for _ in "io")
            with torch.inference_mode():
                self._trunk = capture(self._run_trunk, device.torch)

    def embed(self, codebook: int, codes: Int64) -> Float32:
        """Return one codebook's share of the hidden vectors: codes [T] → float32 [T, d]."""
        return self._tables[codebook](codes)

    def kind(self, step: FinePass) -> Hashable:
        """See `turn_taker.Network`. The heads differ, and what comes before them does not."""
        del step
        return None

    def run(self, steps: Sequence[FinePass]) -> list[Float32]:
        """See `turn_taker.Network`: float32 [T - first, codebook_size] for each."""
        hidden = [self.embed(step.codebook, step.codes) for step in steps]
        for one, step in zip(hidden, steps, strict=True):
            one += step.known
        if self._device.backend == "graph":
            return self._run_together(steps, hidden)
        (step,) = steps
        return [self.logits(hidden[0], step.codebook, step.first, self.window)]

    def logits(self, hidden: Float32, codebook: int, first: int, last: int) -> Float32:
        """Run one pass by itself.

        Args:
            hidden: float32 [T = window, d], the sum of `embed` over codebooks 0…codebook.
            codebook: the one to predict.

        Returns:
            float32 [last - first, codebook_size] for positions first…last-1.
        """
        hidden = hidden + self._places
        head = codebook - self.num_given
        with self._device.turn() as turn:
            if self._native is not None:
                logits = self._native.encode(hidden, head, first, last)
            else:
                on_device = torch.from_numpy(hidden).to(self._device.torch)
                logits = self._torch.encode(on_device, head, first, last).cpu().numpy()
        self.busy_s = turn.busy_s
        return logits

    def _run_together(self, steps: Sequence[FinePass], hidden: list[Float32]) -> list[Float32]:
        with torch.inference_mode(), on(self._stream), self._device.turn() as turn:
            for row, one in enumerate(hidden):
                upload(one + self._places, self._hidden[row])
            self._trunk()
            logits = [
                self._torch.logits(through, step.codebook - self.num_given)[step.first :]
                for step, through in zip(steps, self._through, strict=False)
            ]
            found = [one.cpu().numpy() for one in logits]
        self.busy_s = turn.busy_s
        return found

    def _run_trunk(self) -> None:
        self._through.copy_(self._torch.trunk(self._hidden))
