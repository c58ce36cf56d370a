"""Time the CPU kernels at bark-small's shape: a table for people, last line one JSON document.

    python tests/bench/bench_kernels.py [--precision int8 ...] [--repeats 20]

Random weights, minimum of several runs. GMAC/s counts the linear layers' and the head's products;
GB/s the weights and live cache rows that a decode step has to read.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np

from pipeline.engine.native.loader import default_num_threads
from pipeline.engine.native_gpt import Floats, NativeGPT, Precision

LAYERS, HEADS, WIDTH, VOCABULARY = 12, 12, 768, 10048
FINE_VOCABULARY, MAX_POSITIONS = 1056, 1024
WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
CACHE_BYTES = {"fp32": 4.0, "bf16": 2.0, "int8": 1.5625}  # int8: keys 72 bytes of 64, values bf16
LAYER_MACS = LAYERS * 12 * WIDTH * WIDTH
POSITION = 600


def build(precision: Precision, *, causal: bool, num_slots: int) -> NativeGPT:
    gpt = NativeGPT(
        num_layers=LAYERS,
        num_heads=HEADS,
        width=WIDTH,
        precision=precision,
        num_slots=num_slots,
        max_positions=MAX_POSITIONS,
        causal=causal,
        num_heads_out=1,
    )
    draw = np.random.default_rng(0)

    def weight(out: int, depth: int) -> Floats:
        return draw.standard_normal((out, depth), dtype=np.float32) * np.float32(depth**-0.5)

    sizes = {
        "attention_in": (3 * WIDTH, WIDTH),
        "attention_out": (WIDTH, WIDTH),
        "mlp_in": (4 * WIDTH, WIDTH),
        "mlp_out": (WIDTH, 4 * WIDTH),
    }
    matrices = {name: weight(*size) for name, size in sizes.items()}
    ones = np.ones(WIDTH, np.float32)
    for layer in range(LAYERS):
        for name, matrix in matrices.items():
            gpt.load_linear(layer, name, matrix, None)  # type: ignore[arg-type]
        gpt.load_norm(layer, "norm_1", ones, None)
        gpt.load_norm(layer, "norm_2", ones, None)
    gpt.load_final_norm(ones, None)
    gpt.load_head(0, weight(VOCABULARY if causal else FINE_VOCABULARY, WIDTH))
    return gpt


def fastest(call: Callable[[], object], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)


def measure(precision: Precision, repeats: int) -> dict[str, float]:
    result: dict[str, float] = {}
    draw = np.random.default_rng(1)
    hidden = draw.standard_normal((MAX_POSITIONS, WIDTH)).astype(np.float32)

    def report(name: str, seconds: float, macs: float, read_bytes: float = 0.0) -> None:
        result[f"{name}_ms"] = round(seconds * 1e3, 3)
        result[f"{name}_gmac_s"] = round(macs / seconds / 1e9, 1)
        line = f"{precision:5} {name:12} {seconds * 1e3:9.2f} ms {macs / seconds / 1e9:8.1f} GMAC/s"
        if read_bytes:
            result[f"{name}_gb_s"] = round(read_bytes / seconds / 1e9, 1)
            line += f" {read_bytes / seconds / 1e9:7.1f} GB/s"
        print(line, flush=True)

    gpt = build(precision, causal=True, num_slots=16)
    step_macs = LAYER_MACS + VOCABULARY * WIDTH
    for slot in range(16):
        gpt.extend(slot, 0, hidden[:POSITION])
    for batch in (1, 4, 8, 16):
        slots = np.arange(batch, dtype=np.int32)
        positions = np.full(batch, POSITION, np.int32)
        rows = np.ascontiguousarray(hidden[:batch])
        seconds = fastest(lambda: gpt.decode(slots, positions, rows), repeats * 5)  # noqa: B023
        cache_read = batch * LAYERS * 2 * (POSITION + 1) * WIDTH * CACHE_BYTES[precision]
        read_bytes = step_macs * WEIGHT_BYTES[precision] + cache_read
        report(f"decode_b{batch}", seconds, batch * step_macs, read_bytes)
    for length in (257, 887):
        seconds = fastest(lambda: gpt.extend(0, 0, hidden[:length]), max(3, repeats // 3))  # noqa: B023
        report(f"extend_{length}", seconds, length * LAYER_MACS)
    gpt.close()

    fine = build(precision, causal=False, num_slots=0)
    for first in (0, 512):
        seconds = fastest(lambda: fine.encode(hidden, 0, first, 1024), max(3, repeats // 3))  # noqa: B023
        macs = 1024 * LAYER_MACS + (1024 - first) * FINE_VOCABULARY * WIDTH
        report(f"encode_{first}_1024", seconds, macs)
    fine.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", nargs="+", default=["int8", "bf16", "fp32"])
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    shape = {"layers": LAYERS, "heads": HEADS, "width": WIDTH, "threads": default_num_threads()}
    results = {p: measure(p, options.repeats) for p in options.precision}
    print(json.dumps({"shape": shape, "position": POSITION, **results}))


if __name__ == "__main__":
    main()
