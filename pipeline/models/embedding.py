"""Token and position tables: ids → hidden vectors.

The tables stay on the host and in the precision's own width: of Suno's semantic table
(129,600 rows) a request touches a thousand rows, so it need not be on the device.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.spec import Precision

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


class Embedding:
    """One table [V, d]; fp32, or bf16 in the smaller precisions.

    Looked up in NumPy: between two steps of a decode, with the caches full of weights, it takes
    a fraction of what torch takes to dispatch.
    """

    def __init__(self, table: Tensor, precision: Precision) -> None:
        self._table = table if precision == "fp32" else table.to(torch.bfloat16)
        self._is_wide = precision == "fp32"

    @property
    def num_bytes(self) -> int:
        return self._table.numel() * self._table.element_size()

    def __call__(self, ids: Int64) -> Float32:
        """Return float32 [len(ids), d]."""
        bits = self._bits[ids].astype(np.uint32, copy=False)
        if not self._is_wide:
            bits <<= 16  # a bf16 is the upper half of the float32 of the same value
        return bits.view(np.float32)

    @cached_property
    def _bits(self) -> NDArray[np.uint32] | NDArray[np.uint16]:
        return self._table.view(torch.uint32 if self._is_wide else torch.uint16).numpy()

    def rows(self, start: int, stop: int) -> Tensor:
        """Return rows start … stop-1 in the table's own width, for a device that looks up there."""
        return self._table[start:stop]
