"""Counter-based random numbers: one uniform for each token, at the token's own address.

The generator is Philox 4x64 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
2011), whose stream numpy keeps stable between versions. The key is (seed, segment, stage), the
counter the token's place, so no draw depends on what else runs, or on how often one is repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class DrawKey:
    """Names one stream of draws: the request's seed, its segment, the stage."""

    seed: int
    segment: int
    stage: int

    def uniforms(self, count: int, block: int = 0) -> NDArray[np.float64]:
        """Return float64 [count] in [0, 1): numbers 0 … count-1 of the stream's given block."""
        key = np.array([self.seed, self.segment << 8 | self.stage], dtype=np.uint64)
        counter = np.array([0, 0, block, 0], dtype=np.uint64)
        raw = np.random.Philox(key=key, counter=counter).random_raw(count)
        return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
