"""A report as `bark-serve bench --json` prints it, no longer than a plan reads it."""

from typing import Any

# seconds until all of N clips of 10 s are through the stage
STAGE_S = {
    1: {"semantic": 1.4, "coarse": 8.0, "fine": 2.0, "codec": 0.5},
    8: {"semantic": 5.6, "coarse": 40.0, "fine": 16.0, "codec": 4.0},
}


def bench_report() -> dict[str, Any]:
    return {
        "hardware": {"cpu": "a CPU", "threads": 2, "device": "cpu-x"},
        "settings": {
            "size": "bark-small",
            "model": None,
            "slots": None,
            "best_precision": "int8",
            "work": {
                "seconds": 10.0,
                "semantic_tokens": 499,
                "coarse_tokens": 1500,
                "fine_windows": 1,
            },
        },
        "ours": {"int8": {"profile": [{"stage": "semantic", "prefill_s": 0.1}]}},
        "concurrency": {
            str(n): {"stage_s": dict(stages), "device_s": dict(stages)}
            for n, stages in STAGE_S.items()
        },
        "serve": {"idle_s": 12.1, "idle_added_s": 0.2, "idle_between_s": 0.2},
    }
