"""The whole measurement: which children run, in which order, and what their results add up to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from pipeline.bench.child import NOTE
from pipeline.bench.figures import Json, best_precision, ratios, rounded
from pipeline.bench.machine import hardware, machine_busy_s, versions
from pipeline.bench.suites import Settings
from pipeline.errors import BarkError, InvalidRequest

Note = Callable[[str], None]
DEFAULT_SLOTS = 8  # of `Bark.load`; read there it would cost this process torch
TAIL_LINES = 15


class Child(Protocol):
    """Runs one job of `child.RUNS` and returns what it printed."""

    def __call__(self, label: str, run: str, **arguments: Any) -> Json: ...


def measure(
    settings: Settings, child: Child, note: Note, check: Callable[[Json], None] | None = None
) -> Json:
    """Run everything and return the report.

    Args:
        check: given the report's `hardware` and `settings` before anything is measured; may raise.

    Raises:
        InvalidRequest: a setting that is not possible here; found before anything is measured.
        BarkError: a child failed; says which, and how it ended.
    """
    place = {"device": settings.device, "backend": settings.backend}
    note(settings.model or f"checkpoint {settings.size} (built at first use)")
    given = {"size": settings.size, "model": settings.model, "seconds": settings.seconds}
    ready = child("checkpoint", "prepare", **given, **place)
    clip = {key: ready[key] for key in ("path", "work", "warm_up")}
    device_class = str(ready["device_class"])
    best = best_precision(settings.precisions)
    report: Json = {
        "hardware": hardware(device_class, settings.threads),
        "versions": versions(),
        "settings": asdict(settings) | {"work": ready["work"], "best_precision": best},
    }
    if check is not None:
        check(report)
    note("machine")
    found = child("machine", "ceilings", device=settings.device)
    ours: Json = {}
    for precision in settings.precisions:
        note(f"ours, {precision}, one request")
        ours[precision] = child(
            f"ours in {precision}",
            "single",
            precision=precision,
            slots=settings.slots or DEFAULT_SLOTS,
            repeats=settings.repeats,
            **clip,
            **place,
        )
    concurrency: Json = {}
    disturbed = {"ceilings": found.pop("others_busy_cores")}
    disturbed |= {name: run["others_busy_cores"] for name, run in ours.items()}
    peaks = {name: run["peak_memory_bytes"] for name, run in ours.items()}
    if settings.concurrency:
        note(f"ours, {best}, {_listed(settings.concurrency)} requests at once")
        together = child(
            f"ours in {best}, concurrent",
            "concurrent",
            precision=best,
            slots=settings.slots or max(settings.concurrency),
            levels=list(settings.concurrency),
            repeats=settings.repeats,
            **clip,
            **place,
        )
        concurrency = together["levels"]
        disturbed[f"{best}_concurrent"] = together["others_busy_cores"]
        peaks[f"{best}_concurrent"] = together["peak_memory_bytes"]
    serve = None
    if settings.serve:
        note(f"the service, {best}, {_listed(settings.concurrency)} requests at once")
        serve = child(
            f"the service in {best}",
            "serve",
            precision=best,
            slots=settings.slots or max(settings.concurrency),
            levels=list(settings.concurrency),
            repeats=settings.repeats,
            **clip,
            **place,
        )
        serve.pop("others_busy_cores")  # Ray's own processes are no children of ours
    scaling = None
    if settings.scaling:
        note(f"ours, {best}, full engines of {_listed(settings.scaling)} slots")
        numbers = list(settings.scaling)
        scaling = child(
            f"scaling in {best}", "scaling", precision=best, slots=numbers, **clip, **place
        )
        disturbed["scaling"] = scaling.pop("others_busy_cores")
    bulk = None
    if settings.bulk is not None:
        note(f"a bulk job of {settings.bulk} rows, {best}")
        bulk = child(
            f"a bulk job in {best}",
            "bulk",
            precision=best,
            slots=settings.slots or max((DEFAULT_SLOTS, *settings.concurrency)),
            rows=settings.bulk,
            **clip,
            **place,
        )
        disturbed["bulk"] = bulk.pop("others_busy_cores")
    baseline = None
    if settings.transformers:
        precision = settings.transformers_precision
        if precision == "auto":
            precision = "fp16" if device_class.startswith("cuda") else "fp32"
        note(f"transformers, {precision}, one request")
        baseline = child(
            f"transformers in {precision}",
            "transformers",
            precision=precision,
            device=settings.device,
            repeats=settings.repeats,
            static_batch=settings.static_batch,
            **clip,
        )
        peaks["transformers"] = baseline["peak_memory_bytes"]
        disturbed["transformers"] = baseline["others_busy_cores"]
    if bulk is not None and baseline is not None:
        bulk["of_transformers"] = bulk["bulk_rows_per_s"] * baseline["total_s"]
    report |= {
        "ceilings": found,
        "transformers": baseline,
        "ours": ours,
        "concurrency": concurrency,
        "serve": serve,
        "scaling": scaling,
        "bulk": bulk,
        "ratios": ratios(baseline, ours, concurrency, best),
        "peak_memory_bytes": peaks,
        "others_busy_cores": disturbed,
    }
    told: Json = rounded(report)
    return told


class ChildProcess:
    """Fulfils `Child`: a Python process a job, with equal threads for all, one after the other."""

    def __init__(self, threads: int, note: Note) -> None:
        self._note = note
        self._env = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}

    def __call__(self, label: str, run: str, **arguments: Any) -> Json:
        job = json.dumps({"run": run, **arguments})
        return self.start(label, [sys.executable, "-m", "pipeline.bench.child", job])

    def start(self, label: str, command: Sequence[str]) -> Json:
        """Run a command, pass its notes on, and return the JSON of its last line.

        Raises:
            InvalidRequest: it ended with 2, for a setting that it can not follow.
            BarkError: it ended in any other way, or without a JSON line.
        """
        tail: deque[str] = deque(maxlen=TAIL_LINES)
        others = Others()
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(
                command, env=self._env, stdout=output, stderr=subprocess.PIPE, text=True
            )
            assert process.stderr is not None
            try:
                for line in process.stderr:
                    if line.startswith(NOTE):
                        self._note(f"  {line.removeprefix(NOTE).rstrip()}")
                    else:
                        tail.append(line.rstrip())
                code = process.wait()
            finally:
                process.kill()
                process.wait()
                process.stderr.close()
            output.seek(0)
            lines = output.read().splitlines()
        if code == 2:
            raise InvalidRequest(tail[-1] if tail else f"{label}: a setting is not possible")
        if code == 0 and lines:
            try:
                result: Json = json.loads(lines[-1])
                return result | {"others_busy_cores": others.busy_cores()}
            except ValueError:
                tail.append(f"its last line is no JSON: {lines[-1][:200]}")
        how = f"exit code {code}" if code >= 0 else f"killed by signal {-code}"
        if code == -9:
            how += ", as the system does when memory runs out"
        raise BarkError("\n".join([f"the measurement of {label} failed ({how})", *tail]))


class Others:
    """How many cores processes that are not ours keep busy: what a measurement suffered from."""

    def __init__(self) -> None:
        self._began, self._busy_s = time.monotonic(), machine_busy_s()
        self._own_s = _own_cpu_s()

    def busy_cores(self) -> float | None:
        """Return the mean since this was made."""
        now_s = machine_busy_s()
        if now_s is None or self._busy_s is None:
            return None
        others_s = now_s - self._busy_s - (_own_cpu_s() - self._own_s)
        return max(0.0, others_s / (time.monotonic() - self._began))


def _own_cpu_s() -> float:
    return sum(os.times()[:4])  # this process and its children


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)
