"""The pipeline of a bulk job on one screen: read ▸ text ▸ semantic ▸ coarse ▸ fine ▸ codec.

One streaming Ray Data pipeline, an autoscaling pool of actors a stage. Blocks are small, and an
actor has several at once, so that its batches stay full over their borders.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from deployments.bulk.actor import RowActor
from deployments.bulk.board import Board
from deployments.bulk.prompts import Span, read_span
from deployments.bulk.rows import Prompt, Work, pack_works, unpack_works
from deployments.bulk.served import ServedOp
from deployments.bulk.stages import (
    ChainedOp,
    CoarseOp,
    CodecOp,
    FineOp,
    SemanticOp,
    TextOp,
)
from deployments.config import STAGE_LABEL, AppConfig, PoolSection

_READ_CPUS = 0.1
_READS = 2  # at once: each in a process of 260 MB, and of ten thousand prompts there are hundreds
_SERVED_CPUS = 0.1


@dataclass(frozen=True, slots=True)
class Wanted:
    """Rows of one span that are still to do: their places in it, and their names."""

    span: Span
    places: tuple[int, ...]
    prompts: tuple[tuple[int, str, str], ...]  # number, id, sha256


class PromptSource(Datasource):
    """Rows that are still to do; each task reads its own span of its file."""

    def __init__(self, wanted: Sequence[Wanted]) -> None:
        self._wanted = list(wanted)

    def estimate_inmemory_data_size(self) -> int:
        return 1000 * sum(len(part.places) for part in self._wanted)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        del parallelism, per_task_row_limit, data_context
        return [
            ReadTask(partial(_read, part), BlockMetadata(n, 1000 * n, None, None))
            for part in self._wanted
            if (n := len(part.places))
        ]


def _read(part: Wanted) -> list[pa.Table]:
    rows = read_span(part.span)
    works = []
    for place, (number, row_id, sha256) in zip(part.places, part.prompts, strict=True):
        fields = rows[place].fields
        if fields is not None:
            fields = {name: value for name, value in fields.items() if name != "id"}
        works.append(Work.of(Prompt(number, row_id, sha256, fields, rows[place].problem)))
    return [pack_works(works)]


def room_of(config: AppConfig, *, via_serve: bool = False) -> int:
    """Return how many rows may be under way: enough for every slot of every pool, and some."""
    pools = config.bulk
    if via_serve:
        return pools.max_in_flight or 2 * config.admission.max_low
    actors = max(1, pools.semantic.max_size, pools.coarse.max_size)
    return config.bulk.max_in_flight or 4 * actors * config.engine.semantic_slots


def open_board(config: AppConfig, *, via_serve: bool = False) -> Any:
    """Start the actor that all others share; it ends with its job."""
    return (
        ray.remote(Board)
        .options(num_cpus=0, max_restarts=-1, max_task_retries=-1, max_concurrency=10_000)
        .remote(room_of(config, via_serve=via_serve))
    )


def rows_of(
    wanted: Sequence[Wanted],
    config: AppConfig,
    model_digest: str,
    board: Any,
    *,
    has_chained: bool,
    via_serve: bool = False,
) -> Iterator[list[Work]]:
    """Run the pipeline; yield rows as they end, in no order."""
    _be_quiet()
    engine, pools = config.engine, config.bulk
    block_rows = max(1, engine.semantic_slots // 2)
    arguments = (config, model_digest, board)

    def through(
        rows: Dataset, stage: type[RowActor], pool: PoolSection, calls: int, label: str | None
    ) -> Dataset:
        """Add a stage with its own pool."""
        prefers = {} if label is None else _preferring(label)
        return rows.map_batches(
            stage,
            fn_constructor_args=arguments,
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                min_size=pool.min_size,
                max_size=pool.max_size,
                max_concurrent_calls_per_actor=calls,
                max_tasks_in_flight_per_actor=2 * calls,
            ),
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus or None,
            **prefers,
        )

    def calls(slots: int) -> int:
        """Blocks at once in an actor: its slots full, and the next rows at the door."""
        return math.ceil(1.5 * slots / block_rows) + 1

    rows = ray.data.read_datasource(
        PromptSource(wanted),
        override_num_blocks=len(wanted),
        num_cpus=_READ_CPUS,
        concurrency=_READS,
    )
    if via_serve:
        rows = rows.repartition(target_num_rows_per_block=block_rows)
        at_once = math.ceil(room_of(config, via_serve=True) / block_rows) + 1
        one = PoolSection(max_size=1, num_cpus=_SERVED_CPUS)
        yield from _ended(through(rows, ServedOp, one, at_once, None))
        return
    rows = through(rows, TextOp, pools.text, 2, None)
    rows = rows.repartition(target_num_rows_per_block=block_rows)
    if has_chained:
        rows = through(rows, ChainedOp, pools.chained, calls(engine.semantic_slots), "semantic")
    rows = through(rows, SemanticOp, pools.semantic, calls(engine.semantic_slots), "semantic")
    rows = through(rows, CoarseOp, pools.coarse, calls(engine.coarse_slots), "coarse")
    rows = through(rows, FineOp, pools.fine, 4, "fine")
    rows = through(rows, CodecOp, pools.codec, 4, "codec")
    yield from _ended(rows)


def _ended(rows: Dataset) -> Iterator[list[Work]]:
    """Run what was put together, and yield its blocks as they come."""
    for block in rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield unpack_works(block)


def _preferring(stage: str) -> dict[str, Any]:
    """Return the node label of a stage's pool, and "anywhere" where there is no such pool."""
    return {
        "label_selector": {STAGE_LABEL: stage},
        "fallback_strategy": [{"label_selector": {}}],
    }


def _be_quiet() -> None:
    """Leave the terminal to our own progress."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = 0  # rows carry their errors; a lost block is a fault of ours
    context.execution_options.preserve_order = False
    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.ERROR)
