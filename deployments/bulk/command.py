"""`bark-serve bulk`: a file of prompts → sound and a manifest in a store, on Ray Data.

Also `python -m deployments.bulk …`, as the entry point of a RayJob. Whatever interrupts it, the
same command goes on where it was: what a job has made is in the store under its own id, which is
the id that the service would have given it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from deployments.config import AppConfig
from pipeline.errors import EngineFailed, InvalidRequest

if TYPE_CHECKING:
    from deployments.bulk.job import Job
    from deployments.bulk.journal import Journal
    from deployments.bulk.progress import BulkProgress
    from deployments.bulk.rows import Json
    from pipeline.store import Store

EXAMPLES = """
Make sound of every prompt in a file (JSONL, CSV or Parquet), on this machine or a Ray cluster.

Columns: `text`, and any field of a request (`voice`, `seed`, `semantic.temperature`, …); `id`
names a row. Run the same command again after an interruption: it goes on where it was.

Exit codes: 0 every row is made; 1 some rows are errors, or the job stopped; 2 wrong usage.

Examples:

    bark-serve bulk --input prompts.jsonl --output bark-data

    bark-serve bulk --input s3://bucket/prompts.parquet --output s3://bucket/out --address auto

    bark-serve bulk --input prompts.csv --output out --retry-errors
"""
DEFAULT_CONFIG = Path("serve_config.yaml")


def bulk(
    inputs: Annotated[
        list[str], typer.Option("--input", "-i", help="A file, or s3://…; repeatable.")
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", help="The store: a folder, or s3://bucket/prefix.")
    ],
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Its `args` say which model, how many slots, pools."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="In place of the file's model.name.")
    ] = None,
    precision: Annotated[str | None, typer.Option("--precision", "-p", help="Likewise.")] = None,
    device: Annotated[str | None, typer.Option(help="Likewise.")] = None,
    address: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS", help="A running cluster's; by default one is started here."
        ),
    ] = None,
    manifest: Annotated[
        str, typer.Option(help="Its name in the store; two jobs in one store need two.")
    ] = "manifest",
    via_serve: Annotated[
        bool,
        typer.Option(
            "--via-serve",
            help="Through the service that runs on the cluster, letting all its others go first.",
        ),
    ] = False,
    in_flight: Annotated[
        int | None, typer.Option(min=1, help="Most rows under way; in place of the file's.")
    ] = None,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Do the rows that ended with an error, only.")
    ] = False,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first row that is an error.")
    ] = False,
    recheck: Annotated[
        bool, typer.Option("--recheck", help="Look for every row in the store, whatever is noted.")
    ] = False,
    report: Annotated[bool, typer.Option(help="Write a page about the results.")] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Progress and result as JSON lines.")
    ] = False,
) -> None:
    _check_installed()
    from deployments.bulk.job import Job, Means, model_digest_of, run
    from deployments.bulk.journal import Journal
    from pipeline.store import open_store

    began_s = time.monotonic()
    console = Console(stderr=True, highlight=False)
    changes = {"name": model, "precision": precision, "device": device}
    settings = read_config(config, output, changes, in_flight)
    job = Job.read(settings, inputs)
    store = open_store(settings.store.location)
    journal = Journal(store, _checked_name(manifest))
    means = Means(address, via_serve=via_serve)
    digest = model_digest_of(settings, means)
    if not recheck:
        journal.load(is_model=digest, wanted=job.digests)
    lost = journal.drop_lost()
    if lost and not as_json:
        console.print(f"{lost} rows have lost their sound, and are made again")
    if retry_errors:
        todo = {row["id"] for row in journal.rows.values() if row["status"] != "ok"}
        journal.drop_errors()
    else:
        todo = {row_id for row_id in job.ids if row_id not in journal.rows}
    told = Told(job, journal, as_json, began_s, todo=len(todo))
    told.start()
    code = 0
    if todo:
        with means.connected(console):
            code = run(job, todo, journal, digest, means, told, console, fail_fast=fail_fast)
    told.finish(code, store if report else None)
    raise typer.Exit(told.exit_code(code))


bulk.__doc__ = EXAMPLES


def _check_installed() -> None:
    try:
        import pyarrow
        import ray.data
    except ImportError as error:
        raise EngineFailed(
            f"Ray Data is not installed ({error}): pip install 'bark-serve[bulk]'"
        ) from None
    del pyarrow, ray


def read_config(
    path: Path | None, output: str, model: dict[str, str | None], in_flight: int | None = None
) -> AppConfig:
    """Return the application's settings, with what the command line says instead.

    path: None is `serve_config.yaml`, where there is one.

    Raises:
        InvalidRequest: no such file, or something in it is wrong.
    """
    from pydantic import ValidationError

    from deployments.serve_file import read_serve_file

    if path is None and DEFAULT_CONFIG.is_file():
        path = DEFAULT_CONFIG
    base = AppConfig() if path is None else read_serve_file(path)[1]
    given = base.model_dump()
    given["model"] |= {name: value for name, value in model.items() if value is not None}
    given["store"]["url"] = output if "://" in output else str(Path(output).absolute())
    if in_flight is not None:
        given["bulk"]["max_in_flight"] = in_flight
    try:
        return AppConfig.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InvalidRequest(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _checked_name(name: str) -> str:
    from pipeline.store.contract import check_key

    name = name.removesuffix(".parquet")
    if "/" in name:
        raise InvalidRequest(f"--manifest is a name, not a path: {name!r}")
    return check_key(name)


class Told:
    """What the command says at its start and at its end."""

    def __init__(
        self, job: Job, journal: Journal, as_json: bool, began_s: float, *, todo: int
    ) -> None:
        self._job, self._journal, self._todo = job, journal, todo
        self.as_json, self._began_s = as_json, began_s
        self.progress: BulkProgress | None = None
        # Ray prints, too, and so do its processes: standard output is for our lines alone
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def start(self) -> None:
        total = len(self._job.ids)
        if self.as_json:
            self.write({"event": "start", "total": total, "todo": self._todo})

    @property
    def write_states(self) -> Callable[[Json], None] | None:
        """Where the job's states go; None: a person watches."""
        return self.write if self.as_json else None

    def write(self, facts: Json) -> None:
        """Write a line for programs."""
        self.say(json.dumps(facts))

    def say(self, line: str) -> None:
        with suppress(BrokenPipeError):  # nobody reads it; the job goes on
            self._out.write(f"{line}\n")
            self._out.flush()

    def exit_code(self, code: int) -> int:
        """Return 1 also where all was done, and some of it ended with an error."""
        return code or int(bool(self._journal.num_errors) or self._num_left > 0)

    @property
    def _num_left(self) -> int:
        return sum(row_id not in self._journal.rows for row_id in self._job.ids)

    def finish(self, code: int, reports_to: Store | None) -> None:
        """Write manifest and report where every row has ended, and say how it went."""
        from deployments.bulk.job import INTERRUPTED
        from deployments.bulk.report import report_page

        journal, left = self._journal, self._num_left
        place = self._job.config.store.url.rstrip("/")
        if not left and (self._todo or not journal.is_finished(self._job.ids)):
            if reports_to is not None:
                rows = [journal.rows[row_id] for row_id in self._job.ids]
                page = report_page(rows, reports_to, self._job.config.model.name)
                reports_to.put(journal.report_key, page.encode())
            journal.finish(self._job.ids)
        errors = journal.num_errors
        facts = {
            "event": "end",
            "rows": len(journal.rows),
            "total": len(self._job.ids),
            "ok": len(journal.rows) - errors,
            "errors": errors,
            "left": left,
            "made": 0 if self.progress is None else self.progress.rows,
            "audio_seconds": 0.0 if self.progress is None else self.progress.audio_s,
            "seconds": round(time.monotonic() - self._began_s, 3),
            "manifest": None if left else f"{place}/{journal.manifest_key}",
        }
        if self.as_json:
            self.write(facts)
            return
        if code == INTERRUPTED:
            self.say(
                f"interrupted; {left} of {facts['total']} rows are left: run it again to go on"
            )
            return
        said = "nothing to do: " if not self._todo else ""
        said += f"{facts['ok']} of {facts['total']} rows are made"
        if errors:
            said += f", {errors} are errors (--retry-errors does those again)"
        if left:
            said += f", {left} are left"
        if self.progress is not None:
            said += f"; {facts['audio_seconds']:.1f} s of sound in {facts['seconds']:.1f} s"
        self.say(f"{said}; {facts['manifest'] or place}")
