"""A report for people: tables on a terminal, or a page of Markdown. The numbers are `suite`'s."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from pipeline.bench.figures import Json

NOTABLE_CORES = 0.1  # what others may use before the report says so

CLIP_COLUMNS = (
    "one request", "semantic tok/s", "coarse tok/s", "fine s/window", "codec s", "total s",
    "real-time factor", "first audio s", "peak memory", "speed-up",
)  # fmt: skip
PROFILE_COLUMNS = (
    "stage", "prefill s", "decode s", "device s", "tokens", "steps", "prefilled", "reused",
    "mean batch",
)  # fmt: skip
MANY_COLUMNS = (
    "requests at once", "audio s / s", "total s", "first audio s", "last audio s",
    "batch semantic", "batch coarse", "speed-up over one by one",
)  # fmt: skip
SERVE_COLUMNS = ("requests at once", "audio s / s", "total s", "of the engine's own")


@dataclass(frozen=True, slots=True)
class Sheet:
    """One table: a heading, columns, and cells as text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def sheets(report: Json, *, profile: bool = False) -> Iterator[Sheet]:
    """Yield the report's tables."""
    work = report["settings"]["work"]
    clip = f"a clip of {work['seconds']:g} s, {_model(report['settings'])}"
    yield Sheet(clip, CLIP_COLUMNS, list(_clip_rows(report)))
    if report["concurrency"]:
        best = report["settings"]["best_precision"]
        yield Sheet(f"ours in {best}, {clip} each", MANY_COLUMNS, list(_many_rows(report)))
    if report.get("serve"):
        added_ms = report["serve"]["idle_added_s"] * 1000
        served = [
            (
                level,
                f"{run['audio_s_per_s']:.2f}",
                f"{run['total_s']:.2f}",
                f"{run['of_engine']:.1%}",
            )
            for level, run in report["serve"]["levels"].items()
        ]
        title = f"over HTTP; a short request alone takes {added_ms:.0f} ms more than in one process"
        yield Sheet(title, SERVE_COLUMNS, served)
    if profile:
        for precision, run in report["ours"].items():
            rows = [_profile_row(stage) for stage in run["profile"]]
            yield Sheet(f"ours in {precision}, by stage", PROFILE_COLUMNS, rows)


def remarks(report: Json) -> Iterator[str]:
    """Yield what stands below the tables: hardware, ceilings, how near decoding comes to them."""
    where, found = report["hardware"], report["ceilings"]
    yield (
        f"{where['cpu']}, {where['threads']} threads of {where['cores']} cores, "
        f"{where['memory_bytes'] / 2**30:.0f} GiB, {where['device']}"
    )
    if served := report.get("serve"):
        first, sentence, refused = (
            served[key] * 1000 for key in ("first_audio_s", "first_sentence_s", "refused_s")
        )
        yield (
            f"over HTTP, alone: first sound of a minute's text after {first:.0f} ms, of its first "
            f"sentence {sentence:.0f} ms; full, the slowest refusal took {refused:.0f} ms"
        )
    names = {k: v for k, v in report["versions"].items() if v is not None}
    yield ", ".join(f"{name} {version}" for name, version in names.items())
    gemms = ", ".join(
        f"{key.split('_')[1]} {value:.0f}" for key, value in found.items() if "gemm" in key
    )
    yield f"ceilings: memory read {found['read_gb_per_s']:.1f} GB/s; GEMM {gemms} GMAC/s"
    for precision, run in report["ours"].items():
        if decode := run["semantic_decode"]:
            yield (
                f"semantic decode step in {precision}: {decode['step_s'] * 1e3:.2f} ms, "
                f"{decode['weights_gb_per_s']:.1f} GB/s of weights, "
                f"{decode['read_gb_per_s']:.1f} with the cache"
            )
    baseline = report["transformers"]
    if baseline is not None and (batch := baseline.get("static_batch")):
        yield (
            f"transformers, static batch of {batch['rows']}: {batch['audio_s_per_s']:.3f} s of "
            f"audio a second ({batch['total_s']:.1f} s)"
        )
    disturbed = {k: v for k, v in report["others_busy_cores"].items() if (v or 0) > NOTABLE_CORES}
    if disturbed:
        busy = ", ".join(f"{name} {cores:.1f}" for name, cores in disturbed.items())
        yield f"NOT a quiet machine: cores that other processes kept busy meanwhile: {busy}"
    if report["ratios"]:
        pairs = ", ".join(f"{name} {value:.2f}" for name, value in report["ratios"].items())
        yield f"ours over transformers: {pairs}"


def print_report(console: Console, report: Json, *, profile: bool) -> None:
    """Show the tables on a terminal."""
    for sheet in sheets(report, profile=profile):
        table = Table(title=sheet.title, title_justify="left", title_style="bold")
        for index, column in enumerate(sheet.columns):
            table.add_column(column, justify="right" if index else "left", no_wrap=not index)
        for row in sheet.rows:
            table.add_row(*row)
        console.print(table)
    for line in remarks(report):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def markdown(report: Json) -> str:
    """Return a page that says what was measured, on what, and how to do it again."""
    parts = [
        f"# Benchmark: {_model(report['settings'])}, on {report['hardware']['cpu']}",
        "Ours beside transformers' BarkModel on the same checkpoint. Both make "
        "the same number of tokens, have the same threads, a process of their own and a warm-up; "
        "transformers runs with its KV cache, in inference mode.",
        f"```\n{command(report['settings'])}\n```",
        "\n".join(f"- {line}" for line in remarks(report)),
    ]
    for sheet in sheets(report, profile=True):
        lines = [
            f"## {sheet.title[0].upper()}{sheet.title[1:]}\n",
            f"| {' | '.join(sheet.columns)} |",
            f"|{'---|' * len(sheet.columns)}",
            *(f"| {' | '.join(row)} |" for row in sheet.rows),
        ]
        parts.append("\n".join(lines))
    parts.append(f"## Everything\n\n```json\n{json.dumps(report)}\n```")
    return "\n\n".join(parts) + "\n"


def command(settings: Json) -> str:
    """Return the command line that gives these settings."""
    model = settings["model"]
    words = ["bark-serve", "bench"]
    words += ["--size", settings["size"]] if model is None else ["--model", model]
    words += ["--seconds", f"{settings['work']['seconds']:g}"]
    for precision in settings["precisions"]:
        words += ["--precision", precision]
    for level in settings["concurrency"]:
        words += ["--concurrency", str(level)]
    for name in ("device", "backend", "slots", "threads", "repeats", "static_batch"):
        if settings[name] not in (None, "auto"):
            words += [f"--{name.replace('_', '-')}", str(settings[name])]
    if not settings["transformers"]:
        words.append("--skip-transformers")
    elif settings["transformers_precision"] != "auto":
        words += ["--transformers-precision", settings["transformers_precision"]]
    return shlex.join(words)


def _model(settings: Json) -> str:
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
