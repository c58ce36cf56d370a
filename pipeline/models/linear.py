"""Matrix products in three precisions, batch-invariant where the library below allows it.

fp32 is the reference. bf16: weights and inputs in bf16, sums in fp32. int8: weights symmetric
per output channel, activations symmetric per row (never per tensor, so rows stay independent),
products summed in int32, which is exact. The portable path: torch on any device; CPUs with
AVX-512 use `engine/native` instead.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.spec import Precision

INT8_MAX = 127.0
# torch._int_mm on CUDA refuses fewer than 17 rows, and sizes that 8 does not divide
_CUDA_MIN_ROWS = 32


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return (int8 [R, n], fp32 scale [R, 1]) with x ≈ int8 * scale; an all-zero row gives 0."""
    scale = x.abs().amax(dim=-1, keepdim=True) / INT8_MAX
    safe = torch.where(scale == 0, torch.ones_like(scale), scale)
    return torch.round(x / safe).to(torch.int8), scale


class Linear:
    """y = x Wᵀ + b for x [R, in] → fp32 [R, out]."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, precision: Precision, device: torch.device
    ) -> None:
        self._precision = precision
        self._bias = None if bias is None else bias.to(device)
        self._scale: Tensor | None = None
        if precision == "int8":
            quantised, scale = quantise_rows(weight)
            self._weight = quantised.to(device).t()  # [in, out], a view as _int_mm wants it
            self._scale = scale.t().to(device)  # [1, out]
        else:
            dtype = torch.bfloat16 if precision == "bf16" else torch.float32
            self._weight = weight.to(device, dtype)

    @property
    def num_bytes(self) -> int:
        return self._weight.numel() * self._weight.element_size()

    def __call__(self, x: Tensor) -> Tensor:
        if self._scale is None:
            y = functional.linear(x.to(self._weight.dtype), self._weight).float()
        else:
            y = self._int8(x, self._scale)
        return y if self._bias is None else y + self._bias

    def _int8(self, x: Tensor, weight_scale: Tensor) -> Tensor:
        rows = x.shape[0]
        quantised, row_scale = quantise_rows(x)
        if x.is_cuda and rows < _CUDA_MIN_ROWS:
            quantised = functional.pad(quantised, (0, 0, 0, _CUDA_MIN_ROWS - rows))
        sums = torch._int_mm(quantised, self._weight)[:rows]  # int32 [R, out]
        return sums.float() * (row_scale * weight_scale)
