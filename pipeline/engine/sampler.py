"""Logits → a drawn token: top-p, top-k, temperature, inverse CDF, in Suno's order.

Everything is numpy on the host in fp32, row by row, so a draw can not depend on a neighbour.
Source of the order and of the tie rules: generation.py, `generate_text_semantic`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.sequence import SamplingParams
from pipeline.errors import EngineFailed

Float32 = NDArray[np.float32]
_BLOCK = 128
_ROWS = 64  # at a time: what lies between stays in a core's cache
NO_NUMBERS = "The model's logits are no numbers: broken weights, or a broken device."


def softmax(logits: Float32) -> Float32:
    """Return fp32 probabilities over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)  # type: ignore[no-any-return]


def probabilities(
    logits: Float32, temperature: float, top_k: int | None = None, top_p: float | None = None
) -> Float32:
    """Return the distribution that a token is drawn from.

    Args:
        logits: float32 [n], all of them allowed.
        temperature: 0 gives all mass to the first largest logit.
        top_k: logits below the k-th largest drop out; ties at the threshold stay.
        top_p: on probabilities at temperature 1, a token drops out once the mass of those
            before it exceeds this; the best one always stays.

    Returns:
        float32 [n], sums to 1.
    """
    logits = logits.astype(np.float32, copy=True)
    if top_p is not None:
        order = np.argsort(-logits, kind="stable")
        mass = np.cumsum(softmax(logits[order]))
        logits[order[1:][mass[:-1] > top_p]] = -np.inf
    if top_k is not None and top_k < len(logits):
        threshold = np.partition(logits, -top_k)[-top_k]
        logits[logits < threshold] = -np.inf
    heat = np.float32(temperature)
    if heat == 0:
        one_hot = np.zeros_like(logits)
        best = int(np.argmax(logits))
        one_hot[best] = 1 if np.isfinite(logits[best]) else np.nan
        return one_hot
    # the largest becomes 0 first, so that no temperature, however small, can overflow it
    return softmax((logits - logits.max()) / heat)


def draw(probability: Float32, uniform: float) -> int:
    """Return the index at which the cumulated probability first exceeds `uniform`.

    The sum is taken over blocks first and then within one of them: of 10,001 probabilities only
    a hundredth is cumulated one by one (17 instead of 38 µs a draw, measured on 2 cores).
    """
    blocks = np.zeros((-(-len(probability) // _BLOCK), _BLOCK), np.float32)
    blocks.reshape(-1)[: len(probability)] = probability
    mass = np.cumsum(blocks.sum(axis=1, dtype=np.float64))
    if not mass[-1] > 0:
        raise EngineFailed(NO_NUMBERS)
    wanted = uniform * mass[-1]
    block = min(int(np.searchsorted(mass, wanted, side="right")), len(blocks) - 1)
    if block:
        wanted -= mass[block - 1]
    cdf = np.cumsum(blocks[block], dtype=np.float64)
    index = int(np.searchsorted(cdf, wanted, side="right"))
    # NOTE: rounding can put what is wanted on the total itself; take the last possible token
    if index == _BLOCK:
        possible = np.flatnonzero(blocks[: block + 1])
        return int(possible[-1])
    return block * _BLOCK + index


def draw_rows(
    logits: Float32, temperature: float, uniforms: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Draw one index for each row of logits [R, n]; uniforms [R]; temperature 0 is greedy."""
    if not np.isfinite(logits).all():
        raise EngineFailed(NO_NUMBERS)
    heat = np.float32(temperature)
    if heat == 0:
        return np.asarray(np.argmax(logits, axis=-1))
    drawn = np.empty(len(logits), np.int64)
    for first in range(0, len(logits), _ROWS):
        rows = slice(first, first + _ROWS)
        shifted = (logits[rows] - logits[rows].max(axis=-1, keepdims=True)) / heat
        cdf = np.cumsum(softmax(shifted), axis=-1, dtype=np.float64)
        drawn[rows] = (cdf <= (uniforms[rows] * cdf[:, -1])[:, None]).sum(axis=-1)
    return np.asarray(np.minimum(drawn, logits.shape[-1] - 1))


def next_token(
    logits: Float32, first_id: int, params: SamplingParams, n: int, uniform: float
) -> int | None:
    """Draw token number n of a sequence, or None where the sequence ends instead.

    Args:
        logits: float32 [V], of the ids first_id … first_id + V - 1.
        uniform: the number for this token, in [0, 1).
    """
    start, stop = params.allowed[n % len(params.allowed)]
    choice = logits[start - first_id : stop - first_id]
    if params.stop_id is None:
        p = probabilities(choice, params.temperature, params.top_k, params.top_p)
        return start + draw(p, uniform)
    choice = np.append(choice, logits[params.stop_id - first_id])
    p = probabilities(choice, params.temperature, params.top_k, params.top_p)
    index = draw(p, uniform)
    ends = index == len(p) - 1
    if params.min_stop_p is not None:
        ends = ends or bool(p[-1] >= params.min_stop_p)
    return None if ends else start + index
