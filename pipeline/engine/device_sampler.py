"""The sampler's law on a device: every row of a batch drawn at once, and nothing read back.

The same order as `sampler.py` (top-p, top-k, temperature, inverse CDF), in tensor operations of
fixed shapes, so that a CUDA graph can hold them. Weights become whole numbers before they are
added: such sums are exact, so neither a row's neighbours nor the order in which a device adds can
change a token. Only `exp` is rounded as the device rounds it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.engine.sampler import NO_NUMBER, STOPPED
from pipeline.engine.sequence import SamplingParams

MAX_RANGES = 4  # that a sequence's tokens take turns in; Bark's coarse codes have two
# The largest weight as a whole number. What is left out is below 2**-41 of it, a thousandth of an
# fp32's own rounding; and 2**20 of them can be added in an int64, more than any vocabulary has.
_ONE = 2.0**40


@dataclass(frozen=True, slots=True)
class SamplingRows:
    """What each of S rows draws by; `set_row` turns one row to a sequence's params.

    temperature, top_p, min_stop_p fp32 [S]; top_k, stop_id, num_ranges int64 [S];
    ranges int64 [S, MAX_RANGES, 2]. What is off has a value that changes nothing.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    stop_id: Tensor
    min_stop_p: Tensor
    ranges: Tensor
    num_ranges: Tensor

    @classmethod
    def make(cls, num_rows: int, device: torch.device) -> SamplingRows:
        """Return rows that draw id 0 greedily."""
        rows = _settings(SamplingParams(temperature=0, allowed=((0, 1),), max_tokens=1))
        return cls(
            **{
                name: torch.from_numpy(np.repeat(value[None], num_rows, axis=0)).to(device)
                for name, value in rows.items()
            }
        )

    def set_row(self, row: int, params: SamplingParams) -> None:
        """Copy a sequence's settings to one row; does not wait for the device."""
        for name, value in _settings(params).items():
            upload(value, getattr(self, name)[row])

    def tensors(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]


def upload(values: NDArray[np.generic], target: Tensor) -> None:
    """Copy to the device in its stream's order. The host's side may be changed at once after."""
    source = torch.from_numpy(np.array(values))  # a copy: NumPy may give the memory away
    if target.is_cuda:
        # pinned, so that the copy waits for nothing; torch keeps it until the copy was made
        source = source.pin_memory()
    target.copy_(source, non_blocking=True)


def draw_rows(
    logits: Tensor,
    first_id: int,
    rows: SamplingRows,
    counts: Tensor,
    uniforms: Tensor,
    *,
    filters: bool,
) -> Tensor:
    """Draw one token for every row; see `sampler.next_token`.

    Args:
        logits: fp32 [S, V], of the ids first_id … first_id + V - 1.
        counts: int64 [S], the number of each row's token in its sequence.
        uniforms: float64 [S], in [0, 1).
        filters: whether any row may use top-k or top-p; they cost a sort. Rows without them have
            the same tokens either way.

    Returns:
        int64 [S]: the token's id, or STOPPED, or NO_NUMBER.
    """
    choice = _choice(logits, first_id, rows, counts)  # [S, V + 1], the stop id's last
    best, at_best = choice.max(dim=-1, keepdim=True)  # the first of equals
    if filters:
        choice = _filtered(choice, best, rows)
    heat = rows.temperature[:, None]
    is_greedy = heat == 0
    warm = torch.exp((choice - best) / torch.where(is_greedy, torch.ones_like(heat), heat))
    places = torch.arange(choice.shape[1], device=choice.device)
    weights = _whole(torch.where(is_greedy, (places == at_best).float(), warm))
    cdf = weights.cumsum(dim=-1)
    total = cdf[:, -1]
    wanted = torch.minimum((uniforms * total).long(), total - 1)  # the product may round up
    index = (cdf <= wanted[:, None]).sum(dim=-1)
    stop_p = (weights[:, -1].double() / total).float()
    ends = (index == logits.shape[1]) | (stop_p >= rows.min_stop_p)
    token = torch.where(ends, torch.full_like(index, STOPPED), index + first_id)
    broken = ~torch.isfinite(best[:, 0])
    return torch.where(broken, torch.full_like(index, NO_NUMBER), token)


def _settings(params: SamplingParams) -> dict[str, NDArray[np.generic]]:
    assert len(params.allowed) <= MAX_RANGES
    ranges = np.zeros((MAX_RANGES, 2), np.int64)
    ranges[: len(params.allowed)] = params.allowed
    has_stop = params.stop_id is not None
    floor = params.min_stop_p if has_stop else None
    return {
        "temperature": np.array(params.temperature, np.float32),
        "top_k": np.array(params.top_k or np.iinfo(np.int64).max),
        "top_p": np.array(np.inf if params.top_p is None else params.top_p, np.float32),
        "stop_id": np.array(params.stop_id if has_stop else -1, np.int64),
        "min_stop_p": np.array(np.inf if floor is None else floor, np.float32),
        "ranges": ranges,
        "num_ranges": np.array(len(params.allowed)),
    }


def _choice(logits: Tensor, first_id: int, rows: SamplingRows, counts: Tensor) -> Tensor:
    """Return fp32 [S, V + 1]: logits in their places, -inf what is not allowed, the stop's last."""
    turn = (counts % rows.num_ranges)[:, None, None].expand(-1, 1, 2)
    start, stop = rows.ranges.gather(1, turn)[:, 0].unbind(dim=1)  # [S] each
    ids = torch.arange(first_id, first_id + logits.shape[1], device=logits.device)
    allowed = (ids >= start[:, None]) & (ids < stop[:, None])
    nothing = torch.full_like(logits, -torch.inf)
    place = (rows.stop_id - first_id).clamp(min=0)[:, None]
    ending = torch.where(rows.stop_id[:, None] >= 0, logits.gather(1, place), nothing[:, :1])
    return torch.cat([torch.where(allowed, logits, nothing), ending], dim=1)


def _filtered(choice: Tensor, best: Tensor, rows: SamplingRows) -> Tensor:
    """Give -inf to what top-p, then top-k, drops."""
    ranked, order = choice.sort(dim=-1, descending=True, stable=True)
    mass = _whole(torch.exp(ranked - best))
    cdf = mass.cumsum(dim=-1)
    # NOTE: of those before: the token that crosses top_p stays, and so does the best one
    kept = (cdf - mass) <= rows.top_p[:, None].double() * cdf[:, -1:]
    kept[:, 0] = True
    last = (rows.top_k.clamp(max=choice.shape[1]) - 1)[:, None]
    nothing = torch.full_like(ranked, -torch.inf)
    threshold = torch.where(kept, ranked, nothing).gather(1, last)
    kept &= ranked >= threshold  # ties at the threshold all stay
    return nothing.scatter(1, order, torch.where(kept, ranked, nothing))


def _whole(weights: Tensor) -> Tensor:
    """Return int64 for fp32 in [0, 1]; what is no number becomes 0."""
    return torch.round(weights.double().nan_to_num() * _ONE).long()
