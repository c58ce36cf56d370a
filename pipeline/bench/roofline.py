"""What each phase of a clip has to read and to multiply: the least time that a machine allows it.

A decode step at batch 1 reads every weight once and the cache so far; a prefill and a fine pass
multiply. The limit of a phase is the larger of bytes over read bandwidth and products over the
GEMM rate, both measured in the same run (Williams et al., "Roofline", CACM 2009).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.bench.figures import Json
from pipeline.spec import BarkSpec, GPTShape

WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
CACHE_BYTES = {"fp32": 4.0, "bf16": 2.0, "int8": 2.0}
NATIVE_SCALE_BYTES = 8  # beside each key of our kernels' int8 cache


@dataclass(frozen=True, slots=True)
class Phase:
    """One kind of step: how many there were, their seconds, and what one of them needs on average.

    read_bytes: weights and cached keys and values. macs: multiply-adds.
    """

    name: str
    steps: int
    seconds: float
    read_bytes: float
    macs: float


def phases(
    spec: BarkSpec, precision: str, work: Mapping[str, Any], run: Json, *, native: bool
) -> Json:
    """Lay out one request's phases, as JSON.

    Args:
        work: the fields of `workload.Work`. run: of `ours.single`, with its `profile`.
        native: by our CPU kernels, whose cache is smaller in int8.
    """
    profile = {stage["stage"]: stage for stage in run["profile"]}
    found: Json = {}
    for phase in _phases(spec, precision, work, profile, native):
        if phase.steps:
            found[phase.name] = {k: v for k, v in asdict(phase).items() if k != "name"}
    return found


def _phases(
    spec: BarkSpec,
    precision: str,
    work: Mapping[str, Any],
    profile: Mapping[str, Json],
    native: bool,
) -> Iterator[Phase]:
    semantic, coarse = profile["semantic"], profile["coarse"]
    shape, ids = spec.semantic.gpt, spec.semantic.eos_id + 1
    prompt = spec.semantic.prompt_length + 1
    yield Phase(
        "semantic prefill",
        1,
        semantic["prefill_s"],
        weight_bytes(shape, ids, precision),
        prefill_macs(shape, prompt, ids),
    )
    position = prompt + semantic["steps"] / 2
    yield _decode("semantic decode", shape, ids, precision, semantic, position, native)
    shape, ids = spec.coarse.gpt, spec.coarse.num_codebooks * spec.codebook_size
    starts = coarse_starts(spec, work["coarse_tokens"])
    prompts = [start for done, start in starts.items() if not 0 < done <= spec.coarse.max_history]
    yield Phase(
        "coarse prefill",
        len(prompts),
        coarse["prefill_s"],
        weight_bytes(shape, ids, precision),
        sum(prefill_macs(shape, prompt, ids) for prompt in prompts) / len(prompts),
    )
    position = sum(starts.values()) / len(starts) + spec.coarse.window / 2
    yield _decode("coarse decode", shape, ids, precision, coarse, position, native)
    shape, window = spec.fine.gpt, spec.fine.window
    passes = work["fine_windows"] * (spec.fine.num_codebooks - spec.coarse.num_codebooks)
    linears = shape.num_layers * 12 * shape.width**2 + spec.codebook_size * shape.width
    yield Phase(
        "fine pass",
        passes,
        profile["fine"]["device_s"],
        linears * WEIGHT_BYTES[precision],
        window * linears + shape.num_layers * 2 * shape.width * window**2,
    )


def _decode(
    name: str,
    shape: GPTShape,
    ids: int,
    precision: str,
    stage: Json,
    position: float,
    native: bool,
) -> Phase:
    weights = weight_bytes(shape, ids, precision)
    cached = shape.num_layers * 2 * position * shape.width
    return Phase(
        name,
        stage["steps"],
        stage["decode_s"],
        weights + cached * cache_bytes(shape, precision, native),
        weights / WEIGHT_BYTES[precision] + cached,
    )


def weight_bytes(shape: GPTShape, ids: int, precision: str) -> int:
    """Return the bytes of all weights that a step of one row reads; `ids`: rows of the head."""
    linears = shape.num_layers * 12 * shape.width**2 + ids * shape.width
    return linears * WEIGHT_BYTES[precision]


def cache_bytes(shape: GPTShape, precision: str, native: bool) -> float:
    """Return the bytes of a cached number, keys and values together, with what scales them."""
    if precision != "int8" or not native:
        return CACHE_BYTES[precision]
    key_bytes = 1 + NATIVE_SCALE_BYTES * shape.num_heads / shape.width
    return (key_bytes + CACHE_BYTES["bf16"]) / 2


def prefill_macs(shape: GPTShape, positions: float, ids: int) -> float:
    """Return the multiply-adds of a causal prefill; of the last layer only what is asked for.

    There all positions need keys and values, and the last one alone the rest.
    """
    width, layers = shape.width, shape.num_layers
    linears = positions * ((layers - 1) * 12 + 2) * width**2 + 10 * width**2 + ids * width
    attention = (layers - 1) * width * positions * (positions + 1) + 2 * width * positions
    return linears + attention


def coarse_starts(spec: BarkSpec, num_tokens: int) -> dict[int, int]:
    """Map the tokens before each window to the length of its prompt; no history prompt.

    A window is prefilled when its prompt is not what is in the cache: the first one, and all that
    begin beyond `max_history`.
    """
    coarse = spec.coarse
    return {
        done: coarse.semantic_length + 1 + min(done, coarse.max_history)
        for done in range(0, num_tokens, coarse.window)
    }


def against_ceilings(found: Json, ceilings: Mapping[str, float], precision: str) -> list[Json]:
    """Set phases against the machine's measured ceilings.

    Returns:
        For each phase: `step_s`, `read_bytes`, `macs`, `gb_per_s`, `gmac_per_s`, and `of_limit`:
        how many times longer it took than its limit allows; None where no ceiling is known.
    """
    read = ceilings.get("read_gb_per_s")
    gemm = ceilings.get(f"gemm_{precision}_gmac_per_s")
    rows = []
    for name, phase in found.items():
        step_s = phase["seconds"] / phase["steps"]
        limit_s = None
        if read and gemm:
            limit_s = max(phase["read_bytes"] / read, phase["macs"] / gemm) / 1e9
        rows.append(
            {
                "phase": name,
                "step_s": step_s,
                "read_bytes": phase["read_bytes"],
                "macs": phase["macs"],
                "gb_per_s": phase["read_bytes"] / step_s / 1e9,
                "gmac_per_s": phase["macs"] / step_s / 1e9,
                "of_limit": None if limit_s is None else step_s / limit_s,
            }
        )
    return rows
