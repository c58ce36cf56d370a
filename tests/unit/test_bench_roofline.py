import pytest

from pipeline.bench.roofline import (
    against_ceilings,
    coarse_starts,
    phases,
    prefill_macs,
    weight_bytes,
)  # fmt: skip
from pipeline.models.sizes import seeded_spec
from pipeline.spec import GPTShape

SPEC = seeded_spec("bark-small")
WORK = {"coarse_tokens": 1500, "fine_windows": 1}
STAGE = {"prefill_s": 1.0, "decode_s": 2.0, "steps": 100, "device_s": 3.0}
RUN = {"profile": [STAGE | {"stage": name} for name in ("semantic", "coarse", "fine", "codec")]}


def test_weights_of_a_step_are_those_of_its_products() -> None:
    shape = SPEC.semantic.gpt
    assert weight_bytes(shape, 10_001, "int8") == 12 * 12 * 768**2 + 10_001 * 768
    assert weight_bytes(shape, 10_001, "fp32") == 4 * weight_bytes(shape, 10_001, "int8")


def test_prefill_counts_every_product_of_a_small_network() -> None:
    """One layer of width 2: keys and values of 3 positions; the rest, and a head of 5, of one."""
    shape = GPTShape(num_layers=1, num_heads=1, width=2)
    keys_values = 3 * 2 * 2 * 2
    rest = 10 * 2 * 2  # query, output, four times four in the MLP
    head, attention = 5 * 2, 2 * 2 * 3  # scores and sums over three positions
    assert prefill_macs(shape, 3, 5) == keys_values + rest + head + attention


def test_windows_are_prefilled_when_their_prompt_moves() -> None:
    """As the engine counts them for 10 s: 257 positions once, then 14 times 887."""
    starts = coarse_starts(SPEC, 1500)
    moved = [start for done, start in starts.items() if done == 0 or done > 630]
    assert moved == [257] + [887] * 14
    assert sum(moved) == 12_675


def test_phases_hold_what_one_step_needs() -> None:
    found = phases(SPEC, "bf16", WORK, RUN, native=True)
    assert list(found) == [
        "semantic prefill", "semantic decode", "coarse prefill", "coarse decode", "fine pass",
    ]  # fmt: skip
    decode = found["semantic decode"]
    assert decode["steps"] == 100
    cache = 12 * 2 * (257 + 50) * 768 * 2
    assert decode["read_bytes"] == weight_bytes(SPEC.semantic.gpt, 10_001, "bf16") + cache
    assert found["coarse prefill"]["steps"] == 15
    assert found["fine pass"]["steps"] == 6


def test_limit_is_memory_or_arithmetic_whichever_takes_longer() -> None:
    found = {
        "reads": {"steps": 2, "seconds": 4.0, "read_bytes": 10e9, "macs": 1e9},
        "multiplies": {"steps": 1, "seconds": 4.0, "read_bytes": 1e9, "macs": 200e9},
    }
    reads, multiplies = against_ceilings(
        found, {"read_gb_per_s": 10.0, "gemm_int8_gmac_per_s": 100.0}, "int8"
    )
    assert (reads["step_s"], reads["gb_per_s"], reads["of_limit"]) == (2.0, 5.0, 2.0)
    assert (multiplies["gmac_per_s"], multiplies["of_limit"]) == (50.0, 2.0)
    assert against_ceilings(found, {"read_gb_per_s": 10.0}, "int8")[0]["of_limit"] is None


# In int8 our kernels keep keys of 64 numbers in 72 bytes, and values in bf16.
@pytest.mark.parametrize(
    ("precision", "native", "size"),
    [("fp32", True, 4), ("bf16", True, 2), ("int8", True, (72 / 64 + 2) / 2), ("int8", False, 2)],
)
def test_cache_is_counted_as_it_is_kept(precision: str, native: bool, size: float) -> None:
    found = phases(SPEC, precision, WORK, RUN, native=native)
    with_cache = found["semantic decode"]["read_bytes"]
    cached = 12 * 2 * (257 + 50) * 768 * size
    assert with_cache - weight_bytes(SPEC.semantic.gpt, 10_001, precision) == cached
