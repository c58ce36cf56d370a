"""FineCodes → Waveform: the EnCodec decoder, piece by piece."""

from __future__ import annotations

import time
from collections.abc import Generator

import numpy as np

from pipeline.engine.async_engine import AsyncTurnTaker, Job
from pipeline.engine.runner import Device
from pipeline.errors import EngineFailed, InvalidRequest
from pipeline.models.encodec import CodecDecoder
from pipeline.payloads import FineCodes, Float32, StageReport, Waveform
from pipeline.stages.decoding import Call, unix_s


class CodecStage:
    """The codec: eight codebooks of codes become sound."""

    def __init__(self, decoder: CodecDecoder, turns: AsyncTurnTaker, device: Device) -> None:
        self._decoder, self._turns, self._device = decoder, turns, device

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

    def _decode(self, fine: FineCodes, call: Call) -> Generator[float, None, Waveform]:
        """Yield after every step of the device; return the sound."""
        pieces: list[Float32] = []
        total = self._decoder.num_pieces(fine.codes.shape[1])
        decoding = self._decoder.steps(fine.codes)
        while len(pieces) < total:
            with self._device.turn() as turn:
                piece = next(decoding)
            if piece is not None:
                if not np.isfinite(piece).all():
                    raise EngineFailed(
                        "The codec made samples that are no numbers: broken weights?"
                    )
                pieces.append(piece)
                if call.on_progress is not None:
                    call.on_progress(len(pieces), total)
            yield turn.busy_s
        return Waveform(np.concatenate(pieces), self._decoder.sample_rate)
