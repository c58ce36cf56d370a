"""One stage with its network on a device, and the thread that runs it.

A process that does everything has four of them (`local.py`); a replica of one stage has one, and
loads no more of the checkpoint than that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, Self, TypeVar

from pipeline.engine.async_engine import AsyncEngine
from pipeline.engine.codec_runner import CodecRunner
from pipeline.engine.device_runner import DeviceRunner
from pipeline.engine.engine import Engine
from pipeline.engine.fine_runner import FineRunner
from pipeline.engine.precedence import Precedence
from pipeline.engine.runner import CausalRunner, Device
from pipeline.engine.turn_taker import AsyncTurnTaker
from pipeline.models.checkpoint import Checkpoint
from pipeline.models.encodec import CodecDecoder
from pipeline.spec import Precision
from pipeline.stages.coarse import CoarseStage
from pipeline.stages.codec import CodecStage
from pipeline.stages.fine import FineStage
from pipeline.stages.semantic import SemanticStage

# With the native kernels torch only runs the codec; measured on 2 cores, a 10 s clip takes 0.62 s
# with one thread and 0.35 s with two. Fixed, so that bytes do not depend on a machine's cores.
CODEC_THREADS = 2

_Stage = TypeVar("_Stage", SemanticStage, CoarseStage, FineStage, CodecStage)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how a stage runs.

    num_slots: sequences at once, of the autoregressive stages. max_waiting: sequences beyond
    those that may wait; None is any number. precedence: where calls of low priority are to wait
    for those of other processes, too.
    """

    device: Device
    precision: Precision = "fp32"
    num_slots: int = 8
    max_waiting: int | None = None
    precedence: Precedence | None = None

    @property
    def device_class(self) -> str:
        """What must agree, beside the precision, for two processes to give equal bytes."""
        if self.device.backend == "native":
            return self.device.device_class
        return f"{self.device.device_class}-slots{self.num_slots}"

    @property
    def causal_runner(self) -> type[CausalRunner]:
        return DeviceRunner if self.device.backend == "graph" else CausalRunner


@dataclass(frozen=True, slots=True, eq=False)
class Worker(Generic[_Stage]):
    """A stage, its network, and the engine or turn-taker between them."""

    stage: _Stage
    runner: Any
    engine: AsyncEngine | AsyncTurnTaker

    def close(self) -> None:
        """Stop the thread; what is in flight gets EngineFailed."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_semantic(checkpoint: Checkpoint, place: Placement) -> Worker[SemanticStage]:
    """Load the first transformer."""
    spec = checkpoint.spec.semantic
    runner = place.causal_runner(
        partial(checkpoint.tensor, "semantic"),
        spec.gpt,
        device=place.device,
        precision=place.precision,
        num_slots=place.num_slots,
        max_positions=spec.gpt.block_size,
        head_range=(0, spec.eos_id + 1),
    )
    engine = AsyncEngine(
        Engine(runner, place.precedence), name="semantic", max_waiting=place.max_waiting
    )
    return Worker(SemanticStage(engine, spec), runner, engine)


def open_coarse(checkpoint: Checkpoint, place: Placement) -> Worker[CoarseStage]:
    """Load the second transformer."""
    spec = checkpoint.spec
    runner = place.causal_runner(
        partial(checkpoint.tensor, "coarse"),
        spec.coarse.gpt,
        device=place.device,
        precision=place.precision,
        num_slots=place.num_slots,
        max_positions=spec.coarse.gpt.block_size,
        head_range=(
            spec.codebook_range(0)[0],
            spec.codebook_range(spec.coarse.num_codebooks - 1)[1],
        ),
    )
    engine = AsyncEngine(
        Engine(runner, place.precedence), name="coarse", max_waiting=place.max_waiting
    )
    return Worker(CoarseStage(engine, spec), runner, engine)


def open_fine(checkpoint: Checkpoint, place: Placement) -> Worker[FineStage]:
    """Load the third transformer."""
    spec = checkpoint.spec
    runner = FineRunner(
        partial(checkpoint.tensor, "fine"),
        spec.fine.gpt,
        device=place.device,
        precision=place.precision,
        num_codebooks=spec.fine.num_codebooks,
        num_given=spec.fine.num_given,
        codebook_size=spec.codebook_size,
        window=spec.fine.window,
    )
    turns = AsyncTurnTaker(runner, name="fine", precedence=place.precedence)
    return Worker(FineStage(runner, turns, spec), runner, turns)


def open_codec(checkpoint: Checkpoint, place: Placement) -> Worker[CodecStage]:
    """Load the codec's decoder."""
    spec = checkpoint.spec
    decoder = CodecDecoder(
        partial(checkpoint.tensor, "codec"),
        # of EnCodec's 32 codebooks Bark fills 8
        replace(spec.codec, num_codebooks=spec.fine.num_codebooks),
        place.device.torch,
        CODEC_THREADS if place.device.backend == "native" else None,
    )
    runner = CodecRunner(decoder, place.device)
    turns = AsyncTurnTaker(runner, name="codec", precedence=place.precedence)
    return Worker(CodecStage(runner, turns), runner, turns)
