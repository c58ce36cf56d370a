"""Ours, measured through the door that callers use: `Bark.generate` and `generate_many`."""

from __future__ import annotations

import time
from dataclasses import asdict
from statistics import fmean
from typing import Any

import torch

from pipeline.bark import Bark
from pipeline.bench.child import note
from pipeline.bench.figures import STAGES, Json, clip_figures, middle, seconds_by_part
from pipeline.bench.machine import peak_memory_bytes
from pipeline.bench.roofline import phases
from pipeline.bench.workload import Work, text
from pipeline.clip import Clip
from pipeline.errors import EngineFailed


class StageClock:
    """Wall-clock seconds of the stages, from progress reports.

    Of one request alone, or of equal ones at once, which reach each stage together. One stage
    begins when the one before it ends, so only the ends need be seen.
    """

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self._ends: dict[str, float] = {}

    def __call__(self, stage: str, *_: int) -> None:
        """Take a report; from any thread."""
        self._ends[stage] = time.perf_counter()

    def seconds(self) -> dict[str, float]:
        ends = [self._ends[stage] for stage in STAGES]
        begins = [self._begin, *ends[:-1]]
        return {s: end - begin for s, begin, end in zip(STAGES, begins, ends, strict=True)}


def single(
    *,
    path: str,
    precision: str,
    device: str,
    backend: str,
    slots: int,
    work: Json,
    warm_up: Json,
    repeats: int,
) -> Json:
    """Measure one request at a time; return `clip_figures` and what else is known of it."""
    began = time.perf_counter()
    clip_work = Work(**work)
    with Bark.load(path, device=device, precision=precision, backend=backend, slots=slots) as bark:
        load_s = time.perf_counter() - began
        note(f"loaded in {load_s:.1f} s, warming up")
        _clip(bark, 0, Work(**warm_up))
        runs = []
        for number in range(1, repeats + 1):
            runs.append(_timed_clip(bark, number, clip_work))
            note(f"{clip_work.seconds:g} s of sound in {runs[-1]['total_s']:.2f} s")
        run = middle(runs)
        device_class = bark.stages.device_class
        return {
            **run,
            "runs_s": seconds_by_part(runs),
            "load_s": load_s,
            "phases": phases(
                bark.spec, bark.precision, work, run, native=device_class.startswith("cpu-native")
            ),
            "device_class": device_class,
            **_peaks(),
        }


def concurrent(
    *,
    path: str,
    precision: str,
    device: str,
    backend: str,
    slots: int,
    work: Json,
    warm_up: Json,
    levels: list[int],
    repeats: int,
) -> Json:
    """Measure N different requests at once, for each N.

    Returns:
        `levels`: N → figures; the peaks.
    """
    clip_work, found = Work(**work), {}
    with Bark.load(path, device=device, precision=precision, backend=backend, slots=slots) as bark:
        note("warming up")
        bark.generate_many([request(number, Work(**warm_up)) for number in range(max(levels))])
        for level in levels:
            runs = [together(bark, clip_work, level) for _ in range(repeats)]
            found[str(level)] = middle(runs) | {"runs_total_s": [run["total_s"] for run in runs]}
            note(f"{level} at once: {found[str(level)]['audio_s_per_s']:.2f} s of sound a second")
    return {"levels": found, **_peaks()}


def together(bark: Bark, work: Work, number: int) -> Json:
    """Make so many different clips at once, and return what it took.

    `stage_s`: wall-clock seconds of the stages, as if one ended before the next one began.
    """
    clock = StageClock()
    requests = [request(n, work) | {"progress": clock} for n in range(100, 100 + number)]
    began = time.perf_counter()
    clips = bark.generate_many(requests)
    total_s = time.perf_counter() - began
    for clip in clips:
        check_clip(clip, work)
    return {**_many(clips, work, total_s), "stage_s": clock.seconds()}


def request(number: int, work: Work) -> dict[str, Any]:
    """Return the arguments of `Bark.generate` for one clip of exactly this work."""
    return {"text": text(number), "seed": number, "semantic": work.semantic_fields}


def _clip(bark: Bark, number: int, work: Work, clock: StageClock | None = None) -> Clip:
    clip = bark.generate(**request(number, work), progress=clock)
    check_clip(clip, work)
    return clip


def check_clip(clip: Clip, work: Work) -> None:
    """Refuse to compare a clip that is not the one asked for.

    Raises:
        EngineFailed: other numbers of tokens or frames than `work` has.
    """
    made = (len(clip.tokens.semantic), clip.tokens.fine.shape[1])
    if made != (work.semantic_tokens, work.frames):
        raise EngineFailed(
            f"asked for {work.semantic_tokens} semantic tokens and {work.frames} frames, got "
            f"{made[0]} and {made[1]}"
        )


def _timed_clip(bark: Bark, number: int, work: Work) -> Json:
    clock = StageClock()
    began = time.perf_counter()
    clip = _clip(bark, number, work, clock)
    total_s = time.perf_counter() - began
    return {
        **clip_figures(asdict(work), clock.seconds(), total_s),
        "first_audio_s": clip.timings["first_audio"],
        "profile": [asdict(report) for report in clip.reports],
    }


def _many(clips: list[Clip], work: Work, total_s: float) -> Json:
    reports = {stage: [r for c in clips for r in c.reports if r.stage == stage] for stage in STAGES}
    return {
        "total_s": total_s,
        "audio_s_per_s": len(clips) * work.seconds / total_s,
        "real_time_factor": total_s / (len(clips) * work.seconds),
        "first_audio_s": min(clip.timings["first_audio"] for clip in clips),
        "last_audio_s": max(clip.timings["first_audio"] for clip in clips),
        "mean_batch": {
            stage: fmean(report.mean_batch for report in reports[stage])
            for stage in ("semantic", "coarse")
        },
        "device_s": {stage: sum(report.device_s for report in reports[stage]) for stage in STAGES},
        "queue_s": {stage: fmean(r.queue_s for r in reports[stage]) for stage in STAGES},
    }


def _peaks() -> Json:
    peaks: Json = {"peak_memory_bytes": peak_memory_bytes()}
    if torch.cuda.is_available():
        peaks["peak_device_memory_bytes"] = torch.cuda.max_memory_allocated()
    return peaks
