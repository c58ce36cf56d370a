"""A bulk job from its input to its last row: what there is to do, where, and how it ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import ray
from ray import serve
from rich.console import Console

from deployments.bulk.journal import Journal
from deployments.bulk.pipeline import Wanted, open_board, rows_of
from deployments.bulk.progress import BulkProgress
from deployments.bulk.prompts import Span, scan
from deployments.bulk.rows import Json, PromptIds, Work
from deployments.config import APP_NAME, INGRESS, AppConfig, PoolSection
from deployments.ray_cluster import connect
from pipeline.errors import BarkError, EngineFailed, InvalidRequest
from pipeline.models.checkpoint import open_checkpoint
from pipeline.models.locate import locate

_LEAST_CPUS: Final = 8  # logical ones: the stages of one machine share its cores
_OBJECT_STORE_BYTES: Final = 500_000_000  # rows under way are bounded, and small
_ANSWER_WITHIN_S: Final = 30.0
INTERRUPTED: Final = 130


class Listener(Protocol):
    """Who hears how a job goes."""

    progress: BulkProgress | None

    @property
    def write_states(self) -> Any: ...


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
        job, names = cls(config), PromptIds()
        for path in inputs:
            # meant from here; the tasks that read it again run elsewhere
            place = path if "://" in path else str(Path(path).absolute())
            for span, rows in scan(place):
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
        found = []
        for span, rows in self.spans:
            places = tuple(n for n, (_, row_id, _) in enumerate(rows) if row_id in ids)
            if places:
                found.append(Wanted(span, places, tuple(rows[n] for n in places)))
        return found


@dataclass(slots=True)
class Means:
    """What a job runs on: a cluster that it starts, one that runs, or a service on that one."""

    address: str | None
    via_serve: bool = False
    is_ours: bool = False
    _is_connected: bool = False

    @contextmanager
    def connected(self, console: Console | None = None) -> Iterator[None]:
        """Be connected to Ray for a block; what was started ends with it."""
        if self._is_connected:
            yield
            return
        # it warns of what Ray Data does
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        address = self.address or ("auto" if self.via_serve else None)
        cores = len(os.sched_getaffinity(0))
        room = {} if address else {"object_store_memory": _OBJECT_STORE_BYTES}
        with (console or Console(stderr=True)).status("starting Ray"):
            try:
                self.is_ours = connect(address, max(_LEAST_CPUS, cores), **room)
            except ConnectionError as error:
                raise InvalidRequest(f"no Ray cluster answers at {address}: {error}") from None
        self._is_connected = True
        try:
            yield
        finally:
            self._is_connected = False
            ray.shutdown()

    def settings(self, config: AppConfig) -> AppConfig:
        """Return a job's settings as they are on this cluster.

        On a machine's own CPU there is one actor a stage: more would not be faster, since all
        share the cores, and each has its own weights.
        """
        if not self.is_ours:
            return config
        pools = config.bulk
        changed = {
            name: pool.model_copy(update={"min_size": 1, "max_size": 1})
            for name, pool in pools
            if isinstance(pool, PoolSection) and not pool.num_gpus
        }
        return config.model_copy(update={"bulk": pools.model_copy(update=changed)})


def model_digest_of(config: AppConfig, means: Means) -> str:
    """Return the digest of the model that will speak.

    Raises:
        InvalidRequest: there is no service to ask. InvalidCheckpoint: no such model.
    """
    if not means.via_serve:
        model = config.model
        return open_checkpoint(locate(model.name, revision=model.revision)).digest
    with means.connected():
        try:
            ingress: Any = serve.get_deployment_handle(INGRESS, APP_NAME)
            facts = ingress.facts.remote().result(timeout_s=_ANSWER_WITHIN_S)
        except Exception as error:  # Serve's own, of many kinds
            raise InvalidRequest(f"no service answers on the cluster: {error}") from None
        return str(facts["model_digest"])


def run(
    job: Job,
    todo: set[str],
    journal: Journal,
    digest: str,
    means: Means,
    listener: Listener,
    console: Console,
    *,
    fail_fast: bool,
) -> int:
    """Make what is still to do; return the exit code of how it ended, 0 if it did not break off.

    Raises:
        BarkError: what stopped it. Whatever ended before that is noted.
    """

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        config = means.settings(job.config)
        board = open_board(config, via_serve=means.via_serve)

        def facts() -> Json:
            found: Json = ray.get(board.facts.remote(), timeout=5)
            return found

        done = len(job.ids) - len(todo)
        progress = BulkProgress(len(job.ids), done, console, facts, listener.write_states)
        listener.progress = progress
        rows = rows_of(
            job.wanted(todo),
            config,
            digest,
            board,
            has_chained=job.has_chained,
            via_serve=means.via_serve,
        )
        with progress:
            return _collect(rows, journal, progress, fail_fast)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BarkError:
        raise
    except Exception as error:  # Ray's own, around whatever a stage has raised
        raise _explained(error) from error
    finally:
        with suppress(KeyboardInterrupt):
            signal.signal(signal.SIGTERM, before)
            journal.flush()


def _collect(
    rows: Iterator[list[Work]], journal: Journal, progress: BulkProgress, fail_fast: bool
) -> int:
    for works in rows:
        progress.add(works)
        journal.add(work.end for work in works if work.end is not None)
        if fail_fast and progress.errors:
            return 1
    return 0


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
