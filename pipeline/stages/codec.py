"""FineCodes → Waveform: the EnCodec decoder, piece by piece."""

from __future__ import annotations

import time
from collections.abc import Generator

import numpy as np
from torch import Tensor

from pipeline.engine.codec_runner import CodecRunner, CodecStep
from pipeline.engine.turn_taker import AsyncTurnTaker, Job
from pipeline.errors import EngineFailed, InvalidRequest
from pipeline.payloads import FineCodes, Float32, StageReport, Waveform
from pipeline.stages.decoding import Call, unix_s


class CodecStage:
    """The codec: eight codebooks of codes become sound."""

    def __init__(self, runner: CodecRunner, turns: AsyncTurnTaker) -> None:
        self._runner, self._turns = runner, turns

    async def __call__(self, fine: FineCodes, call: Call) -> tuple[Waveform, StageReport]:
        """Decode; the samples are not clipped.

        Raises:
            InvalidRequest: no frames.
            DeadlineExceeded, Cancelled, EngineFailed.
        """
        frames = fine.codes.shape[1]
        if not frames:
            raise InvalidRequest("There are no frames to decode.")
        submitted = time.monotonic()
        job = Job(
            self._decode(fine, call),
            deadline_s=call.deadline_s,
            size=frames,
            is_low=call.is_low,
        )
        sound: Waveform = await self._turns.run(job)
        return sound, StageReport(
            "codec",
            queue_s=time.monotonic() - submitted - job.device_s,
            device_s=job.device_s,
            began_unix_s=unix_s(submitted),
            tokens=frames,
        )

    def _decode(self, fine: FineCodes, call: Call) -> Generator[CodecStep, Tensor, Waveform]:
        """Yield every step of the device, take its result, return the sound."""
        decoder, sound = self._runner.decoder, list[Float32]()
        pieces, memory = decoder.pieces(fine.codes), decoder.new_memory()
        for x in pieces:
            for start in self._runner.starts:
                x = yield self._runner.step(start, x, memory)
            sound.append(x[0, 0].numpy())
            if not np.isfinite(sound[-1]).all():
                raise EngineFailed("The codec made samples that are no numbers: broken weights?")
            if call.on_progress is not None:
                call.on_progress(len(sound), len(pieces))
        return Waveform(np.concatenate(sound), decoder.sample_rate)
