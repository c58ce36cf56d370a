"""Attention over live lengths: what it computes, and what it must not depend on."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from devices import DEVICES
from torch.nn import functional

from pipeline.models.decode_attention import SPLIT, attend, kernel_name

SLOTS, HEADS, POSITIONS, WIDTH = 5, 3, 2 * SPLIT + 40, 16
LENGTHS = torch.tensor([1, SPLIT, SPLIT + 1, POSITIONS, 0])
DTYPES = [torch.float32, torch.bfloat16]


def random_rows(dtype, seed=1, where="cpu"):
    draw = torch.Generator().manual_seed(seed)
    q = torch.randn(SLOTS, HEADS, WIDTH, generator=draw).to(where)
    shape = (2, SLOTS, HEADS, POSITIONS, WIDTH)
    return q, *torch.randn(shape, generator=draw).to(where, dtype)


@pytest.mark.parametrize("where", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_ordinary_attention_over_the_live_keys(dtype, where):
    q, keys, values = random_rows(dtype, where=where)
    ours = attend(q, keys, values, LENGTHS.to(where))
    for row, length in enumerate(LENGTHS[:-1].tolist()):
        exact = functional.scaled_dot_product_attention(
            q[row, :, None].to(dtype).double(),
            keys[row, :, :length].double(),
            values[row, :, :length].double(),
        )
        torch.testing.assert_close(ours[row], exact[:, 0].float(), rtol=2e-6, atol=2e-6)
    assert (ours[-1] == 0).all()


@pytest.mark.parametrize("where", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_row_is_the_same_bits_whatever_stands_beside_it_or_past_its_length(dtype, where):
    q, keys, values = random_rows(dtype, where=where)
    ours = attend(q, keys, values, LENGTHS.to(where))
    for row, length in enumerate(LENGTHS.tolist()):
        other = random_rows(dtype, seed=2, where=where)
        other[0][row] = q[row]
        for strange, mine in zip(other[1:], (keys, values), strict=True):
            strange[row] = mine[row]
            strange[row, :, length:] = torch.nan
        lengths = torch.full_like(LENGTHS, POSITIONS, device=where)
        lengths[row] = length
        assert torch.equal(attend(*other, lengths)[row], ours[row])


@pytest.mark.parametrize("where", DEVICES)
def test_longer_cache_adds_dead_pieces_that_change_nothing(where):
    q, keys, values = random_rows(torch.float32, where=where)
    longer = [functional.pad(cached, (0, 0, 0, 3 * SPLIT)) for cached in (keys, values)]
    lengths = LENGTHS.to(where)
    assert torch.equal(attend(q, *longer, lengths), attend(q, keys, values, lengths))


def test_where_there_is_no_triton_the_kernel_is_not_missed():
    has_triton = importlib.util.find_spec("triton") is not None
    assert kernel_name().startswith("triton-") if has_triton else kernel_name() == "plain"


INTERPRETED = """
import torch
from test_decode_attention import LENGTHS, DTYPES, random_rows
from pipeline.models.decode_attention import pieces, triton_pieces
for dtype in DTYPES:
    q, keys, values = random_rows(dtype)
    for cached in (keys, values):
        for row, length in enumerate(LENGTHS.tolist()):
            cached[row, :, length:] = torch.nan
    ours = triton_pieces(q.to(dtype), keys, values, LENGTHS)
    for found, wanted in zip(ours, pieces(q.to(dtype), keys, values, LENGTHS), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
print("equal")
"""


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="no Triton here: it comes with CUDA's torch"
)
def test_kernel_in_tritons_interpreter_equals_the_plain_pieces():
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "equal\n", done.stderr
