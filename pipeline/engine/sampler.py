"""Logits → a drawn token: top-p, top-k, temperature, inverse CDF, in Suno's order.

Everything is numpy on the host in fp32. The rows of a decode step are drawn together, and each
gets the token, to the bit of its probability, that it would get alone: whatever is summed is
summed along a row, in an order that its length alone decides.
Source of the order and of the tie rules: generation.py, `generate_text_semantic`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.sequence import SamplingParams
from pipeline.errors import EngineFailed

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
_BLOCK = 128
_ROWS = 64  # at a time: what lies between stays in a core's cache
STOPPED = -1  # in place of a token: the sequence ended
NO_NUMBER = -2  # in place of a token: its logits are no numbers
NO_NUMBERS = "The model's logits are no numbers: broken weights, or a broken device."


@dataclass(frozen=True, slots=True)
class Asked:
    """What one row of logits is for: token number n of a sequence. uniform: in [0, 1)."""

    params: SamplingParams
    n: int
    uniform: float


def token_of(drawn: int) -> int | None:
    """Return the token, or None for STOPPED.

    Raises:
        EngineFailed: NO_NUMBER.
    """
    if drawn == NO_NUMBER:
        raise EngineFailed(NO_NUMBERS)
    return None if drawn == STOPPED else drawn


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
    params = SamplingParams(temperature, (), 0, top_k=top_k, top_p=top_p)
    p = logits[None].astype(np.float32)
    _become_probabilities(p, [params])
    return p.reshape(-1)


def draw(probability: Float32, uniform: float) -> int:
    """Return the index at which the cumulated probability first exceeds `uniform`.

    Raises:
        EngineFailed: there is no probability.
    """
    blocks, choice = _empty_blocks(1, len(probability))
    choice[0] = probability
    index = _draw(blocks, np.array([uniform]))[0]
    if index == NO_NUMBER:
        raise EngineFailed(NO_NUMBERS)
    return index


def draw_rows(logits: Float32, temperature: float, uniforms: Float64) -> NDArray[np.int64]:
    """Draw one index for each row of logits [R, n]; uniforms [R]; temperature 0 is greedy."""
    if not np.isfinite(logits).all():
        raise EngineFailed(NO_NUMBERS)
    drawn: list[int] = []
    params = SamplingParams(temperature, (), 0)
    for first in range(0, len(logits), _ROWS):
        some = logits[first : first + _ROWS]
        blocks, choice = _empty_blocks(*some.shape)
        choice[:] = some
        _become_probabilities(choice, [params] * len(some))
        drawn += _draw(blocks, uniforms[first : first + _ROWS])
    return np.array(drawn, np.int64)


def next_token(
    logits: Float32, first_id: int, params: SamplingParams, n: int, uniform: float
) -> int | None:
    """Draw token number n of one sequence from logits [V]; None where it ends instead.

    Raises:
        EngineFailed: the logits are no numbers.
    """
    return token_of(next_tokens(logits[None], first_id, [Asked(params, n, uniform)])[0])


def next_tokens(logits: Float32, first_id: int, asked: Sequence[Asked]) -> list[int]:
    """Draw a token for each row.

    Args:
        logits: float32 [B, V], of the ids first_id … first_id + V - 1.
        asked: B of them.

    Returns:
        B token ids, or STOPPED where a sequence ends instead, or NO_NUMBER.
    """
    tokens = [NO_NUMBER] * len(asked)
    alike: dict[tuple[int, int, int | None], list[int]] = defaultdict(list)
    for row, one in enumerate(asked):
        allowed = one.params.allowed
        alike[*allowed[one.n % len(allowed)], one.params.stop_id].append(row)
    for (start, stop, stop_id), rows in alike.items():
        of_rows = logits if len(rows) == len(logits) else logits[rows]
        num = stop - start
        blocks, choice = _empty_blocks(len(rows), num + (stop_id is not None))
        choice[:, :num] = of_rows[:, start - first_id : stop - first_id]
        if stop_id is not None:
            choice[:, num] = of_rows[:, stop_id - first_id]
        params = [asked[row].params for row in rows]
        _become_probabilities(choice, params)
        drawn = _draw(blocks, np.array([asked[row].uniform for row in rows]))
        for row, index in zip(rows, drawn, strict=True):
            tokens[row] = index if index == NO_NUMBER else start + index
        if stop_id is None:
            continue
        for row, index, stop_p in zip(rows, drawn, choice[:, num], strict=True):
            floor = asked[row].params.min_stop_p
            is_likely = floor is not None and stop_p >= floor
            if index == num or (is_likely and index != NO_NUMBER):
                tokens[row] = STOPPED
    return tokens


def _empty_blocks(num_rows: int, num_choices: int) -> tuple[Float32, Float32]:
    """Return zeros [R, ⌈n / 128⌉, 128], and a view of their first n as [R, n]."""
    blocks = np.zeros((num_rows, -(-num_choices // _BLOCK), _BLOCK), np.float32)
    return blocks, blocks.reshape(num_rows, -1)[:, :num_choices]


def _become_probabilities(logits: Float32, params: Sequence[SamplingParams]) -> None:
    """Turn each row of [R, n] into the distribution that its token is drawn from."""
    for row, one in enumerate(params):
        if one.has_filters:
            _filter(logits[row], one.top_k, one.top_p)
        if one.temperature == 0:
            _keep_best(logits[row])
    heat = np.array([[one.temperature or 1.0] for one in params], np.float32)
    # the largest becomes 0 first, so that no temperature, however small, can overflow it
    logits -= np.maximum.reduce(logits, axis=1, keepdims=True)
    logits /= heat
    np.exp(logits, out=logits)
    logits /= np.add.reduce(logits, axis=1, keepdims=True)


def _filter(logits: Float32, top_k: int | None, top_p: float | None) -> None:
    """Give -inf to what drops out of logits [n]."""
    if top_p is not None:
        order = np.argsort(-logits, kind="stable")
        mass = np.cumsum(softmax(logits[order]))
        logits[order[1:][mass[:-1] > top_p]] = -np.inf
    if top_k is not None and top_k < len(logits):
        threshold = np.partition(logits, -top_k)[-top_k]
        logits[logits < threshold] = -np.inf


def _keep_best(logits: Float32) -> None:
    """Give -inf to all of logits [n] but the first of the largest; NaN stays what it is."""
    best = int(np.argmax(logits))
    kept = logits[best]
    logits[:] = -np.inf
    logits[best] = kept if np.isfinite(kept) else np.nan


def _draw(blocks: Float32, uniforms: Float64) -> list[int]:
    """Return for each row of [R, K, 128] the index at which its sum exceeds its uniform.

    The sum is taken over blocks first and then within one of them: of 10,001 probabilities only
    a hundredth is cumulated one by one (17 instead of 38 µs a draw, measured on 2 cores).
    """
    each = np.arange(len(blocks))
    mass = np.add.accumulate(np.add.reduce(blocks, axis=2, dtype=np.float64), axis=1)
    total = mass[:, -1]
    wanted = uniforms * total
    block = np.add.reduce(mass[:, :-1] <= wanted[:, None], axis=1)
    wanted -= np.where(block, mass[each, block - 1], 0.0)
    cdf = np.add.accumulate(blocks[each, block], axis=1, dtype=np.float64)
    in_block = np.add.reduce(cdf <= wanted[:, None], axis=1)
    drawn: list[int] = (block * _BLOCK + in_block).tolist()
    # NOTE: rounding can put what is wanted on the block's total; take the last possible token
    for row in np.flatnonzero(in_block == _BLOCK):
        drawn[row] = int(np.flatnonzero(blocks[row, : block[row] + 1])[-1])
    for row in np.flatnonzero(~(total > 0)):
        drawn[row] = NO_NUMBER
    return drawn
