"""`bark-serve bulk`: a file of prompts → sound and a manifest in a store, on Ray Data.

Also `python -m deployments.bulk …`, as the entry point of a RayJob. Whatever interrupts it, the
same command goes on where it was: what a job has made is in the store under its own id, which is
the id that the service would have given it.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from deployments.config import AppConfig, PoolSection
from pipeline.errors import BarkError, EngineFailed, InvalidRequest

if TYPE_CHECKING:
    from deployments.bulk_journal import Journal
    from deployments.bulk_pipeline import Wanted
    from deployments.bulk_progress import BulkProgress
    from deployments.bulk_rows import Json, Work
    from deployments.prompts import Span

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
_LEAST_CPUS = 8  # logical ones: the stages of one machine share its cores
_OBJECT_STORE_BYTES = 500_000_000  # rows under way are bounded, and small
INTERRUPTED = 130


@dataclass(slots=True)
class Job:
    """What is asked for: every row of the input, and which of them are still to do.

    spans: of the input, each with its rows' number, id and digest.
    """

    config: AppConfig
    ids: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    spans: list[tuple[Span, list[tuple[int, str, str]]]] = field(default_factory=list)
    has_chained: bool = False

    @classmethod
    def read(cls, config: AppConfig, inputs: list[str]) -> Job:
        """Read the input once, to know what there is.

        Raises:
            InvalidRequest: it can not be read, or two rows have one id.
        """
        from deployments.bulk_rows import PromptIds
        from deployments.prompts import scan

        job, names = cls(config), PromptIds()
        for path in inputs:
            for span, rows in scan(path):
                prompts = [names.name(row) for row in rows]
                job.spans.append((span, [(p.number, p.id, p.sha256) for p in prompts]))
                job.ids += [p.id for p in prompts]
                job.digests |= {p.id: p.sha256 for p in prompts}
                job.has_chained |= any(
                    (p.fields or {}).get("long_form") == "chained" for p in prompts
                )
        return job

    def wanted(self, ids: set[str]) -> list[Wanted]:
        """Return where these rows are."""
        from deployments.bulk_pipeline import Wanted

        found = []
        for span, rows in self.spans:
            places = tuple(n for n, (_, row_id, _) in enumerate(rows) if row_id in ids)
            if places:
                found.append(Wanted(span, places, tuple(rows[n] for n in places)))
        return found


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
    as_json: Annotated[
        bool, typer.Option("--json", help="Progress and result as JSON lines.")
    ] = False,
) -> None:
    from deployments.bulk_journal import Journal
    from pipeline.models.checkpoint import open_checkpoint
    from pipeline.models.locate import locate
    from pipeline.store import open_store

    began_s = time.monotonic()
    console = Console(stderr=True, highlight=False)
    changes = {"name": model, "precision": precision, "device": device}
    settings = read_config(config, output, changes, in_flight)
    job = Job.read(settings, inputs)
    store = open_store(settings.store.location)
    journal = Journal(store, _checked_name(manifest))
    section = settings.model
    digest = open_checkpoint(locate(section.name, revision=section.revision)).digest
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
        code = _run(job, todo, journal, digest, address, told, console, fail_fast)
    told.finish(code)
    raise typer.Exit(told.exit_code(code))


bulk.__doc__ = EXAMPLES


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


def _run(
    job: Job,
    todo: set[str],
    journal: Journal,
    digest: str,
    address: str | None,
    told: Told,
    console: Console,
    fail_fast: bool,
) -> int:
    """Make what is still to do; return the exit code of how it ended, 0 if it did not break off."""
    from deployments.bulk_progress import BulkProgress
    from deployments.ray_cluster import connect

    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it warns of Ray Data's own doings

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    code = 0
    try:
        with console.status("starting Ray"):
            cores = len(os.sched_getaffinity(0))
            is_ours = connect(
                address, max(_LEAST_CPUS, cores), object_store_memory=_OBJECT_STORE_BYTES
            )

        import ray

        from deployments.bulk_pipeline import open_board, rows_of

        config = on_one_machine(job.config) if is_ours else job.config
        board = open_board(config)

        def facts() -> Json | None:
            found: Json = ray.get(board.facts.remote(), timeout=5)
            return found

        done = len(job.ids) - len(todo)
        progress = BulkProgress(len(job.ids), done, console, facts, as_json=told.as_json)
        told.progress = progress
        rows = rows_of(job.wanted(todo), config, digest, board, has_chained=job.has_chained)
        with progress:
            code = _collect(rows, journal, progress, fail_fast)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BarkError:
        raise
    except Exception as error:  # Ray's own, around whatever a stage has raised
        raise _explained(error) from error
    finally:
        with suppress(KeyboardInterrupt):
            signal.signal(signal.SIGTERM, before)
            journal.flush()
            _disconnect()
    return code


def _collect(
    rows: Iterator[list[Work]], journal: Journal, progress: BulkProgress, fail_fast: bool
) -> int:
    for works in rows:
        progress.add(works)
        journal.add(work.end for work in works if work.end is not None)
        if fail_fast and progress.errors:
            return 1
    return 0


def _disconnect() -> None:
    import ray

    ray.shutdown()


def on_one_machine(config: AppConfig) -> AppConfig:
    """Return the settings for a cluster that is this machine: on a CPU, one actor a stage.

    More of them would not be faster, since all share the cores, and each has its own weights.
    """
    pools = config.bulk
    changed = {
        name: pool.model_copy(update={"min_size": 1, "max_size": 1})
        for name, pool in pools
        if isinstance(pool, PoolSection) and not pool.num_gpus
    }
    return config.model_copy(update={"bulk": pools.model_copy(update=changed)})


def _explained(error: BaseException) -> BarkError:
    """Return what stopped a job, in our words where there are any."""
    seen: BaseException | None = error
    while seen is not None:
        cause = getattr(seen, "cause", None)
        for found in (seen, cause):
            if isinstance(found, BarkError):
                return type(found)(f"the job stopped: {found.message} (run it again to go on)")
        seen = seen.__cause__ or (cause if isinstance(cause, BaseException) else None)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return EngineFailed(
        f"the job stopped: {type(error).__name__}: {lines[-1]} (run it again to go on)"
    )


class Told:
    """What the command says at its start and at its end."""

    def __init__(
        self, job: Job, journal: Journal, as_json: bool, began_s: float, *, todo: int
    ) -> None:
        self._job, self._journal, self._todo = job, journal, todo
        self.as_json, self._began_s = as_json, began_s
        self.progress: BulkProgress | None = None

    def start(self) -> None:
        total = len(self._job.ids)
        if self.as_json:
            facts = {"event": "start", "total": total, "todo": self._todo}
            print(json.dumps(facts), flush=True)

    def exit_code(self, code: int) -> int:
        """Return 1 also where all was done, and some of it ended with an error."""
        return code or int(bool(self._journal.num_errors) or self._num_left > 0)

    @property
    def _num_left(self) -> int:
        return sum(row_id not in self._journal.rows for row_id in self._job.ids)

    def finish(self, code: int) -> None:
        """Write the manifest where every row has ended, and say how it went."""
        journal, left = self._journal, self._num_left
        place = self._job.config.store.url.rstrip("/")
        if not left and (self._todo or not journal.is_finished(self._job.ids)):
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
            print(json.dumps(facts), flush=True)
            return
        if code == INTERRUPTED:
            print(f"interrupted; {left} of {facts['total']} rows are left: run it again to go on")
            return
        said = "nothing to do: " if not self._todo else ""
        said += f"{facts['ok']} of {facts['total']} rows are made"
        if errors:
            said += f", {errors} are errors (--retry-errors does those again)"
        if left:
            said += f", {left} are left"
        if self.progress is not None:
            said += f"; {facts['audio_seconds']:.1f} s of sound in {facts['seconds']:.1f} s"
        print(f"{said}; {facts['manifest'] or place}")


def main() -> None:
    """Run as `python -m deployments.bulk`."""
    import sys

    from pipeline.cli.app import main as run

    sys.argv.insert(1, "bulk")
    run()


if __name__ == "__main__":
    main()
