"""Pictures of a report, as PNG files; needs matplotlib (the extra `bench`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.bench.figures import STAGES, Json
from pipeline.bench.roofline import against_ceilings
from pipeline.bench.sheets import model_name
from pipeline.errors import InvalidRequest

_SIZE_INCHES = (7.5, 4.2)


def draw(report: Json, folder: Path, stem: str) -> list[Path]:
    """Write the pictures that the report has numbers for, `STEM-NAME.png`; return their paths.

    Raises:
        InvalidRequest: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise InvalidRequest("plots need matplotlib: pip install 'bark-serve[bench]'") from None
    mpl.use("agg")
    from matplotlib import pyplot as plt

    written = []
    for name, picture in _pictures(report):
        figure, axes = plt.subplots(figsize=_SIZE_INCHES, layout="constrained")
        picture(axes, report)
        path = folder / f"{stem}-{name}.png"
        figure.savefig(path, dpi=110)
        plt.close(figure)
        written.append(path)
    return written


def _pictures(report: Json) -> Iterator[tuple[str, Callable[[Any, Json], None]]]:
    yield "roofline", _roofline
    if report["scaling"]:
        yield "slots", _slots
        yield "cost", _cost
        yield "settings", _settings


def _roofline(axes: Any, report: Json) -> None:
    """Draw steps by what they do with each byte, below the two ceilings of each precision."""
    found = report["ceilings"]
    for number, (precision, run) in enumerate(report["ours"].items()):
        gemm = found.get(f"gemm_{precision}_gmac_per_s")
        color = f"C{number}"
        if gemm:
            ridge = gemm / found["read_gb_per_s"]
            axes.plot([0.1, ridge, 3000], [0.1 * gemm / ridge, gemm, gemm], color=color, lw=1)
        for row in against_ceilings(run["phases"], found, precision):
            intensity = row["macs"] / row["read_bytes"]
            axes.plot(intensity, row["gmac_per_s"], "o", color=color)
            # coarse's points lie beside those of the other two
            is_below = row["phase"].startswith("coarse")
            axes.annotate(
                row["phase"],
                (intensity, row["gmac_per_s"]),
                xytext=(0, -6 if is_below else 6),
                textcoords="offset points",
                ha="center",
                va="top" if is_below else "bottom",
                fontsize=7,
                color=color,
            )
        axes.plot([], [], "o-", color=color, label=precision)
    axes.set(xscale="log", yscale="log", xlabel="multiply-adds per byte read", ylabel="GMAC/s")
    axes.set_title("steps of one request, and what the machine allows")
    axes.legend()


def _slots(axes: Any, report: Json) -> None:
    runs = report["scaling"]["slots"]
    numbers = [int(number) for number in runs]
    rates = [run["audio_s_per_s"] for run in runs.values()]
    axes.plot(numbers, rates, "o-")
    axes.axvline(report["scaling"]["knee"], color="gray", ls=":", label="knee")
    axes.axhline(1.0, color="gray", lw=0.8)
    axes.set(xlabel="slots, all full", ylabel="seconds of sound a second", ylim=(0, None))
    axes.set_xscale("log", base=2)
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.set_title(f"throughput of {model_name(report['settings'])}")
    axes.legend()


def _cost(axes: Any, report: Json) -> None:
    runs = report["scaling"]["slots"]
    below = [0.0] * len(runs)
    for stage in STAGES:
        costs = [run["cost_s"][stage] for run in runs.values()]
        axes.bar(list(runs), costs, bottom=below, label=stage)
        below = [a + b for a, b in zip(below, costs, strict=True)]
    axes.set(xlabel="slots, all full", ylabel="device-seconds per second of sound")
    axes.set_title("where the time goes")
    axes.legend()


def _settings(axes: Any, report: Json) -> None:
    runs = report["scaling"]["settings"]
    names = [f"{name}, {run['seconds']:g} s" for name, run in runs.items()]
    left = [0.0] * len(runs)
    for stage in STAGES:
        spent = [run["device_s"][stage] for run in runs.values()]
        axes.barh(names, spent, left=left, label=stage)
        left = [a + b for a, b in zip(left, spent, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel="device-seconds of one request")
    axes.set_title("what settings cost")
    axes.legend()
