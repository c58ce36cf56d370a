"""Arithmetic from seconds to figures and ratios. Plain numbers in, plain numbers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]  # what children print and the report holds
STAGES = ("semantic", "coarse", "fine", "codec")
FASTEST_FIRST = ("int8", "bf16", "fp32")


def clip_figures(work: Mapping[str, float], stage_s: Mapping[str, float], total_s: float) -> Json:
    """Return one clip's seconds and rates.

    Args:
        work: the fields of `workload.Work`.
        stage_s: wall-clock seconds of each stage.
        total_s: of the whole request; more than their sum by what lies between them.
    """
    return {
        "total_s": total_s,
        "real_time_factor": total_s / work["seconds"],
        "audio_s_per_s": work["seconds"] / total_s,
        **{f"{stage}_s": stage_s[stage] for stage in STAGES},
        "semantic_tokens_per_s": work["semantic_tokens"] / stage_s["semantic"],
        "coarse_tokens_per_s": work["coarse_tokens"] / stage_s["coarse"],
        "fine_s_per_window": stage_s["fine"] / work["fine_windows"],
    }


def middle(runs: Sequence[Json]) -> Json:
    """Return the run with the median total, whole, so that its parts still add up."""
    return sorted(runs, key=lambda run: float(run["total_s"]))[len(runs) // 2]


def seconds_by_part(runs: Sequence[Json]) -> list[dict[str, float]]:
    """Return the seconds of each stage and of the whole, for every run."""
    return [{part: run[f"{part}_s"] for part in (*STAGES, "total")} for run in runs]


def best_precision(precisions: Sequence[str]) -> str:
    """Return the fastest of those that are measured."""
    return next(name for name in FASTEST_FIRST if name in precisions)


def ratios(
    transformers: Json | None, ours: Mapping[str, Json], concurrency: Mapping[str, Json], best: str
) -> dict[str, float]:
    """Return ours over transformers, end to end; 2 means twice as fast.

    `single` compares one request in our best precision, `single_fp32` and so on in others;
    `concurrent_N` our N requests at once with transformers serving one after the other;
    `concurrent_N_vs_static_batch` with transformers' own batch of N, where that was measured.
    """
    if transformers is None:
        return {}
    found = {"single": transformers["total_s"] / ours[best]["total_s"]}
    for precision, run in ours.items():
        found[f"single_{precision}"] = transformers["total_s"] / run["total_s"]
    for level, run in concurrency.items():
        rate = run["audio_s_per_s"]
        found[f"concurrent_{level}"] = rate / transformers["audio_s_per_s"]
        batch = transformers.get("static_batch")
        if batch is not None and str(batch["rows"]) == level:
            found[f"concurrent_{level}_vs_static_batch"] = rate / batch["audio_s_per_s"]
    return found


def rounded(value: Any) -> Any:
    """Return JSON values with floats cut to six digits: more is noise."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
