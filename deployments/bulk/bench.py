"""What the bulk pipeline costs over the bare engine, on the benchmark's own clips.

A child of `bark-serve bench --bulk`: the same rows in one process as a plain loop and as one
batch, then as a job on a cluster here. What is compared is the time from the first row's beginning
to the last row's end; that actors have to be started is told beside it.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from deployments.bulk.job import Job, Means
from deployments.bulk.pipeline import open_board, rows_of
from deployments.bulk.rows import Work as Row
from deployments.config import AppConfig
from pipeline.bark import Bark
from pipeline.bench.child import note
from pipeline.bench.workload import Work, text
from pipeline.errors import EngineFailed
from pipeline.models.checkpoint import open_checkpoint

Json = dict[str, Any]
_LOOP_ROWS = 2  # a plain loop's pace does not change


def pipeline(
    *,
    path: str,
    precision: str,
    device: str,
    backend: str,
    slots: int,
    work: Json,
    warm_up: Json,
    rows: int,
) -> Json:
    """Measure so many rows three ways.

    Returns:
        rows a second: `loop_rows_per_s` of `Bark.generate`, `engine_rows_per_s` of
        `Bark.generate_many`, `bulk_rows_per_s`; `of_engine`, `of_loop`: the last over those.
        `start_s`: until the job's first row began.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    prompts = [_prompt(number, Work(**work)) for number in range(100, 100 + rows)]
    with Bark.load(path, device=device, precision=precision, backend=backend, slots=slots) as bark:
        note("warming up")
        bark.generate_many([_prompt(number, Work(**warm_up)) for number in range(slots)])
        began = time.perf_counter()
        for prompt in prompts[:_LOOP_ROWS]:
            bark.generate(**prompt)
        loop = _LOOP_ROWS / (time.perf_counter() - began)
        note(f"a plain loop: {loop * work['seconds']:.2f} s of sound a second")
        began = time.perf_counter()
        bark.generate_many(prompts)
        engine = rows / (time.perf_counter() - began)
        note(f"the bare engine, {rows} rows: {engine * work['seconds']:.2f} s of sound a second")
    model = {"name": path, "precision": precision, "device": device, "backend": backend}
    numbers = {"semantic_slots": slots, "coarse_slots": slots}
    with tempfile.TemporaryDirectory() as folder:
        config = AppConfig.model_validate(
            {"model": model, "engine": numbers, "store": {"url": f"{folder}/out"}}
        )
        bulk, start_s = _job(config, Path(folder), prompts, path)
    note(f"as a bulk job: {bulk * work['seconds']:.2f} s of sound a second")
    return {
        "rows": rows,
        "loop_rows_per_s": loop,
        "engine_rows_per_s": engine,
        "bulk_rows_per_s": bulk,
        "of_engine": bulk / engine,
        "of_loop": bulk / loop,
        "start_s": start_s,
        "audio_s_per_row": work["seconds"],
    }


def _prompt(number: int, work: Work) -> Json:
    return {"text": text(number), "seed": number, "semantic": work.semantic_fields}


def _job(config: AppConfig, folder: Path, prompts: list[Json], model: str) -> tuple[float, float]:
    """Run a job; return rows a second, and the seconds until its first row began."""
    import ray

    file = folder / "prompts.jsonl"
    file.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    job, means = Job.read(config, [str(file)]), Means(None)
    with means.connected():
        config, began = means.settings(config), time.time()
        board = open_board(config)
        digest = open_checkpoint(Path(model)).digest
        done: list[Row] = []
        for works in rows_of(job.wanted(set(job.ids)), config, digest, board, has_chained=False):
            done += works
        ended = time.time()
        first = float(ray.get(board.facts.remote())["first_unix_s"])
    if bad := [row.end for row in done if row.end is None or row.end["status"] != "ok"]:
        raise EngineFailed(f"a row was not made: {bad[0]}")
    if len(done) != len(prompts):
        raise EngineFailed(f"{len(done)} rows came of {len(prompts)}")
    return len(done) / (ended - first), first - began
