"""The report's tables: a heading, columns, and cells as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.bench.against import Change
from pipeline.bench.figures import STAGES, Json
from pipeline.bench.roofline import against_ceilings

CLIP_COLUMNS = (
    "one request", "semantic tok/s", "coarse tok/s", "fine s/window", "codec s", "total s",
    "real-time factor", "first audio s", "peak memory", "speed-up",
)  # fmt: skip
PROFILE_COLUMNS = (
    "stage", "prefill s", "decode s", "device s", "tokens", "steps", "prefilled", "reused",
    "mean batch",
)  # fmt: skip
ROOFLINE_COLUMNS = (
    "step", "ms", "MB read", "GB/s", "MMAC", "GMAC/s", "times the limit",
)  # fmt: skip
MANY_COLUMNS = (
    "requests at once", "audio s / s", "total s", "first audio s", "last audio s",
    "batch semantic", "batch coarse", "speed-up over one by one",
)  # fmt: skip
BULK_COLUMNS = ("way", "rows / s", "audio s / s", "the job's over it")
SERVE_COLUMNS = ("requests at once", "audio s / s", "total s", "of the engine's own")
SLOTS_COLUMNS = ("slots, all full", "audio s / s", *(f"{s} s / audio s" for s in STAGES))
SETTINGS_COLUMNS = ("one request", "total s", *(f"{s} s" for s in STAGES))
CHANGE_COLUMNS = ("now over then", "part", "ratio", "noise", "verdict")


@dataclass(frozen=True, slots=True)
class Sheet:
    """One table."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def sheets(report: Json, *, profile: bool = False) -> Iterator[Sheet]:
    """Yield the report's tables; `profile`: also where each stage's time goes."""
    settings = report["settings"]
    clip, best = f"a clip of {settings['work']['seconds']:g} s", settings["best_precision"]
    clip = f"{clip}, {model_name(settings)}"
    yield Sheet(clip, CLIP_COLUMNS, list(_clip_rows(report)))
    for precision, run in report["ours"].items():
        rows = [
            _roofline_row(row)
            for row in against_ceilings(run["phases"], report["ceilings"], precision)
        ]
        yield Sheet(f"ours in {precision}, against the machine's limits", ROOFLINE_COLUMNS, rows)
    if report["concurrency"]:
        yield Sheet(f"ours in {best}, {clip} each", MANY_COLUMNS, list(_many_rows(report)))
    if report["serve"]:
        served = report["serve"]
        added, low, high, between = (
            f"{seconds * 1000:.0f}"
            for seconds in (
                served["idle_added_s"],
                *served["idle_added_interval_s"],
                served["idle_between_s"],
            )
        )
        title = (
            f"over HTTP; a short request alone takes {added} ms more than in one process ({low} to "
            f"{high} with 95 % confidence); {between} ms pass between the processes"
        )
        yield Sheet(title, SERVE_COLUMNS, list(_serve_rows(report["serve"]["levels"])))
    if bulk := report["bulk"]:
        title = f"{bulk['rows']} rows; the job's first began after {bulk['start_s']:.0f} s"
        yield Sheet(title, BULK_COLUMNS, list(_bulk_rows(bulk, report["transformers"])))
    if scaling := report["scaling"]:
        title = f"ours in {best}, {clip} each; the knee is at {scaling['knee']} slots"
        yield Sheet(title, SLOTS_COLUMNS, list(_slots_rows(scaling["slots"])))
        yield Sheet(
            "what settings cost", SETTINGS_COLUMNS, list(_settings_rows(scaling["settings"]))
        )
    if profile:
        for precision, run in report["ours"].items():
            rows = [_profile_row(stage) for stage in run["profile"]]
            yield Sheet(f"ours in {precision}, by stage", PROFILE_COLUMNS, rows)


def change_sheet(changes: Sequence[Change], then: Json) -> Sheet:
    """Return the table of a comparison with an earlier report."""
    rows = [(c.name, c.part, f"{c.ratio:.3f}", f"±{c.noise - 1:.1%}", c.verdict) for c in changes]
    return Sheet(
        f"seconds now over those of commit {then['versions']['commit']}", CHANGE_COLUMNS, rows
    )


def model_name(settings: Json) -> str:
    """Return what spoke, in words."""
    return settings["model"] or f"{settings['size']} with random weights"


def _clip_rows(report: Json) -> Iterator[tuple[str, ...]]:
    ratios, baseline = report["ratios"], report["transformers"]
    if baseline is not None:
        yield (f"transformers {baseline['precision']}", *_clip_cells(baseline), "1.00")
    for precision, run in report["ours"].items():
        ratio = ratios.get(f"single_{precision}")
        yield (f"ours {precision}", *_clip_cells(run), "" if ratio is None else f"{ratio:.2f}")


def _clip_cells(run: Json) -> tuple[str, ...]:
    return (
        f"{run['semantic_tokens_per_s']:.1f}",
        f"{run['coarse_tokens_per_s']:.1f}",
        f"{run['fine_s_per_window']:.2f}",
        f"{run['codec_s']:.2f}",
        f"{run['total_s']:.2f}",
        f"{run['real_time_factor']:.3f}",
        f"{run['first_audio_s']:.2f}",
        f"{run['peak_memory_bytes'] / 1e6:.0f} MB",
    )


def _roofline_row(row: Json) -> tuple[str, ...]:
    return (
        row["phase"],
        f"{row['step_s'] * 1e3:.2f}",
        f"{row['read_bytes'] / 1e6:.1f}",
        f"{row['gb_per_s']:.1f}",
        f"{row['macs'] / 1e6:.0f}",
        f"{row['gmac_per_s']:.0f}",
        "" if row["of_limit"] is None else f"{row['of_limit']:.2f}",
    )


def _many_rows(report: Json) -> Iterator[tuple[str, ...]]:
    for level, run in report["concurrency"].items():
        ratio = report["ratios"].get(f"concurrent_{level}")
        yield (
            level,
            f"{run['audio_s_per_s']:.3f}",
            f"{run['total_s']:.2f}",
            f"{run['first_audio_s']:.2f}",
            f"{run['last_audio_s']:.2f}",
            f"{run['mean_batch']['semantic']:.1f}",
            f"{run['mean_batch']['coarse']:.1f}",
            "" if ratio is None else f"{ratio:.2f}",
        )


def _serve_rows(levels: Json) -> Iterator[tuple[str, ...]]:
    for level, run in levels.items():
        rate, total = f"{run['audio_s_per_s']:.2f}", f"{run['total_s']:.2f}"
        yield (level, rate, total, f"{run['of_engine']:.1%}")


def _bulk_rows(bulk: Json, baseline: Json | None) -> Iterator[tuple[str, ...]]:
    ways = [("bulk job", bulk["bulk_rows_per_s"]), ("bare engine", bulk["engine_rows_per_s"])]
    ways.append(("plain loop", bulk["loop_rows_per_s"]))
    if baseline is not None:
        ways.append(("transformers", 1 / baseline["total_s"]))
    for name, pace in ways:
        yield (
            name,
            f"{pace:.3f}",
            f"{pace * bulk['audio_s_per_row']:.2f}",
            f"{bulk['bulk_rows_per_s'] / pace:.2f}",
        )


def _slots_rows(slots: Json) -> Iterator[tuple[str, ...]]:
    for number, run in slots.items():
        costs = (f"{run['cost_s'][stage]:.3f}" for stage in STAGES)
        yield (number, f"{run['audio_s_per_s']:.2f}", *costs)


def _settings_rows(settings: Json) -> Iterator[tuple[str, ...]]:
    for name, run in settings.items():
        stages = (f"{run['device_s'][stage]:.2f}" for stage in STAGES)
        yield (f"{name}, {run['seconds']:g} s", f"{run['total_s']:.2f}", *stages)


def _profile_row(stage: Json) -> tuple[str, ...]:
    return (
        stage["stage"],
        f"{stage['prefill_s']:.3f}",
        f"{stage['decode_s']:.3f}",
        f"{stage['device_s']:.3f}",
        str(stage["tokens"]),
        str(stage["steps"]),
        str(stage["prefilled_positions"]),
        str(stage["reused_positions"]),
        f"{stage['mean_batch']:.1f}",
    )
