"""`decode_attention.pieces` as a Triton kernel: one program a row, head and piece of its keys.

Imported where there is a Triton alone. Each program does the same work in the same order whatever
runs beside it; one whose piece lies past the row's length reads nothing but that length.
"""

# triton ships no types, and gives its language meaning to what mypy reads as Python
# mypy: disable-error-code="no-untyped-def, untyped-decorator, import-untyped, import-not-found"
from __future__ import annotations

import triton
import triton.language as tl

VERSION = triton.__version__


@triton.jit
def pieces_kernel(
    q_at,
    keys_at,
    values_at,
    lengths_at,
    tops_at,
    sums_at,
    weighted_at,
    row_stride,
    head_stride,
    position_stride,
    num_heads,
    num_pieces,
    scale,
    SPLIT: tl.constexpr,
    D: tl.constexpr,
    PADDED_D: tl.constexpr,
):
    """Pointers to contiguous tensors, but keys and values: fp32 or bf16 with the given strides."""
    piece, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths_at + row)
    out = (row * num_heads + head) * num_pieces + piece
    channels = tl.arange(0, PADDED_D)
    is_channel = channels < D
    places = piece * SPLIT + tl.arange(0, SPLIT)
    live = places < length
    # a row's cache may lie past 2**31 elements
    base = row.to(tl.int64) * row_stride + head.to(tl.int64) * head_stride
    at = base + places[:, None].to(tl.int64) * position_stride + channels[None, :]
    mask = live[:, None] & is_channel[None, :]
    q = tl.load(q_at + (row * num_heads + head) * D + channels, mask=is_channel, other=0.0)
    k = tl.load(keys_at + at, mask=mask, other=0.0)
    v = tl.load(values_at + at, mask=mask, other=0.0)
    scores = tl.sum(q.to(tl.float32)[None, :] * k.to(tl.float32), axis=1) * scale
    scores = tl.where(live, scores, float("-inf"))
    top = tl.max(scores, axis=0)
    weights = tl.exp(scores - tl.where(top == float("-inf"), 0.0, top))
    weighted = tl.sum(weights[:, None] * v.to(tl.float32), axis=0)
    tl.store(tops_at + out, top)
    tl.store(sums_at + out, tl.sum(weights, axis=0))
    tl.store(weighted_at + out * D + channels, weighted, mask=is_channel)
