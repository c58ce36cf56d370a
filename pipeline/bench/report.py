"""A report for people: tables on a terminal, or a page of Markdown. The numbers are `measure`'s."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from pipeline.bench.figures import Json
from pipeline.bench.sheets import Sheet, model_name, sheets
from pipeline.bench.suites import settings_of

NOTABLE_CORES = 0.1  # what others may use before the report says so


def remarks(report: Json) -> Iterator[str]:
    """Yield what stands below the tables: hardware, versions, ceilings, ratios."""
    where, found = report["hardware"], report["ceilings"]
    yield (
        f"{where['cpu']}, {where['threads']} threads of {where['cores']} cores, "
        f"{where['memory_bytes'] / 2**30:.0f} GiB, {where['device']}"
    )
    names = {k: v for k, v in report["versions"].items() if v is not None}
    yield ", ".join(f"{name} {version}" for name, version in names.items())
    gemms = ", ".join(
        f"{key.split('_')[1]} {value:.0f}" for key, value in found.items() if "gemm" in key
    )
    yield f"ceilings: memory read {found['read_gb_per_s']:.1f} GB/s; GEMM {gemms} GMAC/s"
    if served := report["serve"]:
        first, sentence, refused = (
            served[key] * 1000 for key in ("first_audio_s", "first_sentence_s", "refused_s")
        )
        yield (
            f"over HTTP, alone: first sound of a minute's text after {first:.0f} ms, of its first "
            f"sentence {sentence:.0f} ms; full, the slowest refusal took {refused:.0f} ms"
        )
        idle, beside = served["idle_s"] * 1000, served["beside_bulk_s"] * 1000
        yield (
            f"a short request takes {idle:.0f} ms alone, {beside:.0f} ms beside bulk rows that "
            f"fill the service: {beside / idle:.2f} times"
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


def print_report(
    console: Console, report: Json, *, profile: bool, more: Sequence[Sheet] = ()
) -> None:
    """Show the tables on a terminal."""
    for sheet in (*sheets(report, profile=profile), *more):
        table = Table(title=sheet.title, title_justify="left", title_style="bold")
        for index, column in enumerate(sheet.columns):
            table.add_column(column, justify="right" if index else "left", no_wrap=not index)
        for row in sheet.rows:
            table.add_row(*row)
        console.print(table)
    for line in remarks(report):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def markdown(report: Json, *, more: Sequence[Sheet] = (), pictures: Sequence[str] = ()) -> str:
    """Return a page that says what was measured, on what, and how to do it again.

    pictures: file names beside the page.
    """
    parts = [
        f"# Benchmark: {model_name(report['settings'])}, on {report['hardware']['cpu']}",
        f"```\n{command(report['settings'])}\n```",
        "\n".join(f"- {line}" for line in remarks(report)),
    ]
    if report["transformers"]:
        parts.insert(
            1,
            "Ours beside transformers' BarkModel on the same checkpoint. Both make the same "
            "number of tokens, have the same threads, a process of their own and a warm-up; "
            "transformers runs with its KV cache, in inference mode.",
        )
    parts += [f"![{name.rsplit('.', 1)[0]}]({name})" for name in pictures]
    for sheet in (*more, *sheets(report, profile=True)):
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
    """Return the command line that gives these settings: the suite, and what differs from it."""
    words = ["bark-serve", "bench", "--suite", settings["suite"]]
    usual = settings_of(settings["suite"])
    words += ["--threads", str(settings["threads"])]
    for name in ("size", "model", "seconds", "device", "backend", "slots", "repeats"):
        if settings[name] != getattr(usual, name):
            words += [f"--{name}", f"{settings[name]}"]
    for name, option in (("precisions", "precision"), ("concurrency", "concurrency")):
        if tuple(settings[name]) != getattr(usual, name):
            words += [word for value in settings[name] for word in (f"--{option}", str(value))]
    for name in ("static_batch", "transformers_precision"):
        if settings[name] != getattr(usual, name):
            words += [f"--{name.replace('_', '-')}", str(settings[name])]
    if usual.transformers and not settings["transformers"]:
        words.append("--skip-transformers")
    if settings["bulk"] != usual.bulk:
        words += ["--bulk", str(settings["bulk"])]
    if settings["serve"] and not usual.serve:
        words.append("--serve")
    return shlex.join(words)
