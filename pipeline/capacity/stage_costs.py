"""What a clip costs each stage, alone and in a batch, as `bark-serve bench` measured it.

Everything here is read from a report or follows from it by taking less of it: a clip longer than
the measured one, or more at once, is refused, and the command that measures it is named.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pipeline.errors import InvalidRequest

STAGES: Final = ("semantic", "coarse", "fine", "codec")
# These share each step's work among the clips of a batch; the others take turns.
BATCHED: Final = ("semantic", "coarse")

# Threads of a decode step meet after every small product. Where other processes want the cores,
# too, the first to arrive hands its core over; those of a fine pass and of the codec seldom do.
# Equal weights told p95 up to 2.4 times too long where the fine model is most of the work.
_WEIGHT_OF_LONG_STEPS: Final = 5.0
# What a decode step loses where another stage has work on the same cores: its caches, and a thread
# that waits at a barrier for one that was put off. Fitted; see docs/decisions/0031.
_STEP_LOSES_S: Final = 0.0005

_SAME_LENGTH: Final = 1.02  # a clip may be longer than the measured one by a frame's rounding


@dataclass(frozen=True, slots=True)
class StageCost:
    """One stage's time, device and host together.

    alone_s: for one clip of the measured length by itself.
    fixed_s: the part of it that does not shrink with the clip.
    demand: how much of the device it keeps busy while it works, with its slots full; the rest is
        host code, during which another stage may have the device.
    weight: how much of the device it gets where other stages want it at once.
    steps: decode steps of the measured clip, where threads of a CPU have to meet after each of
        their products; 0 elsewhere.
    together: (clips at once, seconds until all of them are done), ascending, from 1.
    slots: clips at work at once; None: any number, in turn.
    """

    alone_s: float
    together: tuple[tuple[int, float], ...]
    slots: int | None = None
    fixed_s: float = 0.0
    demand: float = 1.0
    weight: float = 1.0
    steps: int = 0

    @property
    def lost(self) -> float:
        """Return what a second of work alone loses while others work on the device, in seconds.

        A batch loses it once, since it shares its steps.
        """
        return self.steps * _STEP_LOSES_S / self.alone_s

    def slowdown(self, batch: int) -> float:
        """Return how much slower each of `batch` clips goes than one alone; at least 1.

        Linear between measured batches: a step of a batch is one part for the weights, which all
        share, and one for each row. Beyond them in proportion.
        """
        (below, below_s), *rest = self.together
        slowest_s = first_s = below_s
        for size, seconds in rest:
            seconds = max(seconds, slowest_s)  # noise: no batch is done before a smaller one
            if batch <= size:
                within = (batch - below) / (size - below)
                return (below_s + within * (seconds - below_s)) / first_s
            below, below_s, slowest_s = size, seconds, seconds
        return max(below_s / first_s, 1.0) * batch / below

    def work_s(self, share: float) -> float:
        """Return the seconds alone of a clip of so much (0…1) of the measured length."""
        return self.fixed_s + (self.alone_s - self.fixed_s) * share

    def slower(self, times: float) -> StageCost:
        """Return the cost where all takes so many times as long."""
        together = tuple((size, seconds * times) for size, seconds in self.together)
        alone_s, fixed_s = self.alone_s * times, self.fixed_s * times
        return replace(self, alone_s=alone_s, fixed_s=fixed_s, together=together)

    def with_longer_steps(self, step_s: float) -> StageCost:
        """Return the cost where a step, of one clip or of a batch, takes so much longer.

        step_s: below 0: shorter, but the clip alone by no more than half.
        """
        longer_s = max(self.steps * step_s, -self.alone_s / 2)
        together = tuple((size, seconds + longer_s) for size, seconds in self.together)
        return replace(self, alone_s=self.alone_s + longer_s, together=together)

    def best_gain(self, *, disturbed: bool = False) -> float:
        """Return how many times the clips of one at a time a replica makes with its slots full."""
        most, lost = self.slots or self.together[-1][0], self.lost if disturbed else 0.0
        return max(size / (self.slowdown(size) + lost) for size in range(1, most + 1))


@dataclass(frozen=True, slots=True)
class Costs:
    """All stages of one model on one kind of device.

    clip_s: seconds of sound of the measured clip; fine_windows: of the fine model in it.
    added_s: what the service adds to a request outside of its stages, in seconds.
    measured_on: for people.
    """

    stages: Mapping[str, StageCost]
    clip_s: float
    fine_windows: int
    added_s: float
    measured_on: str

    @property
    def alone_s(self) -> float:
        """Return the seconds that all stages take for the measured clip by itself."""
        return sum(cost.alone_s for cost in self.stages.values())

    def slower(self, times: float) -> Costs:
        """Return the costs where every stage takes so many times as long."""
        return replace(self, stages={name: c.slower(times) for name, c in self.stages.items()})

    def longer(self, clip_s: float) -> Costs:
        """Return the costs where a clip by itself takes so many seconds longer.

        All of it in the decode steps, if they are a CPU's: how long its threads take to meet is
        what changes from one hour to the next, and a batch pays it once. Elsewhere in proportion.
        """
        steps = sum(cost.steps for cost in self.stages.values())
        if not steps:
            return self.slower(1.0 + clip_s / self.alone_s)
        stages = {name: c.with_longer_steps(clip_s / steps) for name, c in self.stages.items()}
        return replace(self, stages=stages)

    def work_s(self, seconds: float) -> tuple[float, ...]:
        """Return each stage's seconds alone for a clip of so much sound.

        Raises:
            InvalidRequest: longer than what was measured.
        """
        share = seconds / self.clip_s
        if share > _SAME_LENGTH:
            raise InvalidRequest(
                f"clips of {self.clip_s:g} s were measured, and a segment of {seconds:.3g} s may "
                f"cost more than in proportion; run {measuring(seconds=seconds)}"
            )
        share = min(share, 1.0)
        # what does not fill a window costs as much as one that does
        windows = math.ceil(share * self.fine_windows) / self.fine_windows
        shares = dict.fromkeys(STAGES, share) | {"fine": windows}
        return tuple(self.stages[stage].work_s(shares[stage]) for stage in STAGES)


def measuring(*, seconds: float | None = None, batch: int = 8) -> str:
    """Return the command that measures what a plan needs."""
    length = "" if seconds is None else f" --seconds {math.ceil(seconds * 10) / 10:g}"
    return (
        f"bark-serve bench{length} --concurrency 1 --concurrency {batch} --skip-transformers "
        "--serve --output costs.json  (with the --model, --precision and --device that you serve)"
    )


def read_costs(path: Path, slots: int | None = None) -> Costs:
    """Read a report that `bark-serve bench --json` or `--output` wrote.

    Raises:
        InvalidRequest: no such report, or one that lacks what a plan needs; says how to make it.
    """
    try:
        lines = path.read_text(encoding="utf-8").strip().splitlines()
        report = json.loads(lines[-1])
    except (OSError, UnicodeDecodeError, ValueError, IndexError):
        raise InvalidRequest(
            f"{path} is no report of bark-serve bench; run {measuring()}"
        ) from None
    try:
        return costs_of(report, slots)
    except InvalidRequest as error:
        raise InvalidRequest(f"{path}: {error.message}") from None
    except (KeyError, TypeError, ZeroDivisionError, AttributeError):
        raise InvalidRequest(
            f"{path} is no report of bark-serve bench, or one of another version; run {measuring()}"
        ) from None


def costs_of(report: Mapping[str, Any], slots: int | None = None) -> Costs:
    """Return the costs in a report, in the precision whose concurrency it measured.

    Args:
        slots: of the semantic and coarse stages; None: as many as clips were measured at once.

    Raises:
        InvalidRequest: the report lacks a level, or is of an older version.
    """
    settings, levels = report["settings"], report["concurrency"]
    work = settings["work"]
    counts = sorted(int(level) for level in levels)
    if not counts or counts[0] != 1 or counts[-1] == 1:
        raise InvalidRequest(
            f"the report has {', '.join(map(str, counts)) or 'no'} requests at once; a plan needs "
            f"1 and at least one more: run {measuring(seconds=work['seconds'])}"
        )
    if any("stage_s" not in levels[str(count)] for count in counts):
        raise InvalidRequest(
            "the report is of an older version and does not say how long each stage took; "
            f"run {measuring(seconds=work['seconds'])}"
        )
    most = min(counts[-1], settings.get("slots") or counts[-1])
    slots = slots or most
    if slots > most:
        raise InvalidRequest(
            f"{slots} slots asked for, at most {most} clips at once measured; "
            f"run {measuring(seconds=work['seconds'], batch=slots)}"
        )
    precision = settings["best_precision"]
    hardware = report["hardware"]
    cores = hardware["threads"] if hardware["device"].startswith("cpu") else 0
    prefill_s = report["ours"][precision]["profile"][0]["prefill_s"]
    # of a CPU, where stages may share its cores
    steps = {"semantic": work["semantic_tokens"], "coarse": work["coarse_tokens"]} if cores else {}
    stages = {}
    for stage in STAGES:
        together = tuple((count, levels[str(count)]["stage_s"][stage]) for count in counts)
        device_s = levels[str(most)]["device_s"][stage]
        on_device = min(1.0, device_s / levels[str(most)]["stage_s"][stage])
        stages[stage] = StageCost(
            alone_s=together[0][1],
            together=together,
            slots=slots if stage in BATCHED else None,
            fixed_s=min(prefill_s, together[0][1]) if stage == "semantic" else 0.0,
            # host code, too, is work of a CPU: of one of its threads
            demand=on_device + (1.0 - on_device) / cores if cores else on_device,
            weight=_WEIGHT_OF_LONG_STEPS if cores and stage not in BATCHED else 1.0,
            steps=steps.get(stage, 0),
        )
    added_s, slower = _service(report.get("serve"))
    name = settings["model"] or f"{settings['size']}, random weights"
    bare = Costs(
        stages=stages,
        clip_s=work["seconds"],
        fine_windows=work["fine_windows"],
        added_s=added_s,
        measured_on=f"{name}, {precision}, {hardware['cpu']}, "
        f"{hardware['threads']} threads, {hardware['device']}",
    )
    return bare.slower(slower)


def _service(served: Mapping[str, Any] | None) -> tuple[float, float]:
    """Return what the service adds outside of the stages, and how many times slower they are in it.

    On cores that they share with Ray's own processes they are; on a GPU of their own hardly.
    """
    if served is None:
        return 0.0, 1.0
    idle_s, between_s = served["idle_s"], max(0.0, served["idle_between_s"])
    in_one_process_s = idle_s - served["idle_added_s"]
    return between_s, max(1.0, (idle_s - between_s) / in_one_process_s)
