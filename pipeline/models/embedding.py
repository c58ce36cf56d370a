"""Token and position tables: ids → hidden vectors.

The tables stay on the host and in the precision's own width: of Suno's semantic table
(129,600 rows) a request touches a thousand rows, so it need not be on the device.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.spec import Precision

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


class Embedding:
    """One table [V, d]; fp32, or bf16 in the smaller precisions."""

    def __init__(self, table: Tensor, precision: Precision) -> None:
        self._table = table if precision == "fp32" else table.to(torch.bfloat16)

    @property
    def num_bytes(self) -> int:
        return self._table.numel() * self._table.element_size()

    def __call__(self, ids: Int64) -> Float32:
        """Return float32 [len(ids), d]."""
        return self._table[torch.from_numpy(ids)].float().numpy()

    def rows(self, start: int, stop: int) -> Tensor:
        """Return rows start … stop-1 in the table's own width, for a device that looks up there."""
        return self._table[start:stop]
