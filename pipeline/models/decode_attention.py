"""Attention of one new position over each row's own live keys, for a whole batch at once.

A row's keys are cut at fixed places (every `SPLIT` positions), each piece is attended to by
itself, and the pieces are put together in their order. So a row's result is a function of its own
keys, query and length: not of its neighbours, nor of how many there are. On CUDA a Triton kernel
reads the live pieces alone; `pieces` does the same with plain tensors, over all of them.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor

SPLIT = 128  # keys of one piece


def attend(q: Tensor, keys: Tensor, values: Tensor, lengths: Tensor) -> Tensor:
    """Attend from one query a row to the row's first `lengths` keys.

    Args:
        q: fp32 [S, H, D], rounded to the cache's width first.
        keys, values: fp32 or bf16 [S, H, T, D], a row's part of the cache.
        lengths: int64 [S], 0…T; a row of length 0 gets zeros.

    Returns:
        fp32 [S, H, D].
    """
    q = q.to(keys.dtype)
    if q.is_cuda and _kernel() is not None:
        return combine(*triton_pieces(q, keys, values, lengths))
    return combine(*pieces(q, keys, values, lengths))


def pieces(
    q: Tensor, keys: Tensor, values: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend to each of the P = ceil(T / SPLIT) pieces by itself.

    Returns:
        fp32: the largest score [S, H, P], the sum of weights [S, H, P], the sum of weighted values
        [S, H, P, D]. A piece without live keys has -inf, 0, 0.
    """
    tops, sums, weighted = [], [], []
    for start in range(0, keys.shape[2], SPLIT):
        k, v = (cached[:, :, start : start + SPLIT].float() for cached in (keys, values))
        scores = (q.float()[:, :, None] * k).sum(-1) * _scale(q)  # [S, H, SPLIT]
        places = torch.arange(start, start + k.shape[2], device=q.device)
        live = (places < lengths[:, None])[:, None]
        scores = scores.masked_fill(~live, -torch.inf)
        top = scores.amax(-1)
        weights = torch.exp(scores - _finite(top)[..., None])
        tops.append(top)
        sums.append(weights.sum(-1))
        # NOTE: a dead key may be anything, also what another sequence left there
        dead = torch.where(live[..., None], v, torch.zeros_like(v))
        weighted.append((weights[..., None] * dead).sum(-2))
    return torch.stack(tops, -1), torch.stack(sums, -1), torch.stack(weighted, -2)


def combine(tops: Tensor, sums: Tensor, weighted: Tensor) -> Tensor:
    """Put the pieces together, the first one first: → fp32 [S, H, D]."""
    factors = torch.exp(tops - _finite(tops.amax(-1, keepdim=True)))  # [S, H, P]
    total, attended = torch.zeros_like(sums[..., 0]), torch.zeros_like(weighted[..., 0, :])
    for piece in range(tops.shape[-1]):
        factor = factors[..., piece]
        total = total + factor * sums[..., piece]
        attended = attended + factor[..., None] * weighted[..., piece, :]
    return attended / torch.where(total == 0, torch.ones_like(total), total)[..., None]


@cache
def _kernel() -> Any:
    """Return decode_kernel, or None where there is no Triton."""
    try:
        from pipeline.models import decode_kernel
    except ImportError:
        return None
    return decode_kernel


def kernel_name() -> str:
    """Name what attends on CUDA: its rounding is part of the device class."""
    kernel = _kernel()
    return "plain" if kernel is None else f"triton-{kernel.VERSION}"


def triton_pieces(
    q: Tensor, keys: Tensor, values: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Do what `pieces` does, reading live keys alone."""
    num_rows, num_heads, num_positions, width = keys.shape
    num_pieces = -(-num_positions // SPLIT)
    tops = torch.empty(num_rows, num_heads, num_pieces, device=q.device)
    sums = torch.empty_like(tops)
    weighted = torch.empty(num_rows, num_heads, num_pieces, width, device=q.device)
    q = q.contiguous()
    assert keys.stride() == values.stride()
    assert keys.stride(3) == 1
    _kernel().pieces_kernel[(num_pieces, num_heads, num_rows)](
        q,
        keys,
        values,
        lengths,
        tops,
        sums,
        weighted,
        *keys.stride()[:3],
        num_heads,
        num_pieces,
        _scale(q),
        SPLIT=SPLIT,
        D=width,
        PADDED_D=1 << (width - 1).bit_length(),
    )
    return tops, sums, weighted


def _scale(q: Tensor) -> float:
    return 1 / math.sqrt(q.shape[-1])


def _finite(x: Tensor) -> Tensor:
    return torch.where(torch.isinf(x), torch.zeros_like(x), x)
