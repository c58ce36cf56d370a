"""The sampler's law in the kernels: a step's rows drawn by one call.

Between two decode steps the caches are full of weights, and each NumPy call costs its own way back
into them: eight rows took 250 µs of a step of 7 ms. Rows with a filter (top-k, top-p) are left to
`sampler`. The two round otherwise in the last bits, so a row's own settings alone decide which
of them draws it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from struct import Struct

import numpy as np
from numpy.typing import NDArray

from pipeline.engine import sampler
from pipeline.engine.native.loader import kernels
from pipeline.engine.sampler import NO_NUMBER, NO_NUMBERS, Asked
from pipeline.errors import EngineFailed

Float32 = NDArray[np.float32]
# `Asked` of draw.h: uniform, temperature, first, num, stop, min_stop_p, and four bytes unused
_ROW = Struct("dfiiif4x")
_ROWS = np.dtype(
    {
        "names": ["uniform", "temperature", "first", "num", "stop", "min_stop_p"],
        "formats": ["f8", "f4", "i4", "i4", "i4", "f4"],
        "itemsize": _ROW.size,
    }
)
_NEVER = float("inf")


def next_tokens(logits: Float32, first_id: int, asked: Sequence[Asked]) -> list[int]:
    """See `sampler.next_tokens`."""
    if any(one.params.has_filters for one in asked):
        return _some_filtered(logits, first_id, asked)
    columns = logits.shape[1]
    rows = []
    for params, n, uniform in ((one.params, one.n, one.uniform) for one in asked):
        start, end = params.allowed[n % len(params.allowed)]
        last = end - 1 if params.stop_id is None else params.stop_id
        if not (first_id <= start < end <= first_id + columns and 0 <= last - first_id < columns):
            raise ValueError(f"ids {start} to {end} and {params.stop_id} are not among the logits")
        stop = -1 if params.stop_id is None else params.stop_id - first_id
        floor = _NEVER if params.min_stop_p is None else params.min_stop_p
        rows.append(
            _ROW.pack(uniform, params.temperature, start - first_id, end - start, stop, floor)
        )
    tokens = (ctypes.c_int32 * len(rows))()
    _draw(logits, len(rows), b"".join(rows), tokens)
    return [first_id + token if token >= 0 else token for token in tokens]


def draw_rows(
    logits: Float32, temperature: float, uniforms: NDArray[np.float64]
) -> NDArray[np.int64]:
    """See `sampler.draw_rows`."""
    rows = np.zeros(len(logits), _ROWS)
    rows["uniform"], rows["temperature"], rows["num"] = uniforms, temperature, logits.shape[1]
    rows["stop"] = -1
    tokens = np.empty(len(logits), np.int32)
    _draw(logits, len(logits), rows.ctypes.data, tokens.ctypes.data)
    if (tokens == NO_NUMBER).any():
        raise EngineFailed(NO_NUMBERS)
    return tokens.astype(np.int64)


def _some_filtered(logits: Float32, first_id: int, asked: Sequence[Asked]) -> list[int]:
    """Draw the rows one by one: few requests have filters, and those cost more than a call."""
    tokens = []
    for row, one in enumerate(asked):
        law = sampler.next_tokens if one.params.has_filters else next_tokens
        tokens += law(logits[row, None], first_id, [one])
    return tokens


def _draw(
    logits: Float32, num_rows: int, asked: bytes | int, tokens: ctypes.Array[ctypes.c_int32] | int
) -> None:
    if logits.dtype != np.float32 or not logits.flags.c_contiguous or len(logits) != num_rows:
        raise ValueError(f"logits must be contiguous float32 [{num_rows}, V]")
    if kernels().bark_draw(logits.ctypes.data, logits.shape[1], num_rows, asked, tokens):
        raise MemoryError("no memory to draw tokens")
