"""CodecStage: codes ▸ sound, on its own pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from deployments.builtin_errors import raises_builtins
from deployments.stage import StageReplica
from deployments.wire import Wire, check_keys, headers_of, pack_report, unpack_call, unpack_integers
from pipeline.errors import InvalidRequest
from pipeline.payloads import FineCodes
from pipeline.stages.codec import CodecStage as Stage
from pipeline.telemetry import traced
from pipeline.workers import Placement, Worker, open_codec


class CodecStage(StageReplica):
    """The codec's decoder."""

    def open(self, place: Placement) -> Worker[Stage]:
        return open_codec(self.checkpoint, place)

    @raises_builtins
    async def generate(self, request: Mapping[str, Any]) -> Wire:
        """Turn `fine`, [8, F], into `samples`, float32 [320 F]; see `wire` for the keys.

        Raises:
            ValueError, TimeoutError, RuntimeError: see `builtin_errors`.
        """
        check_keys(request, "fine")
        self.check_model(request)
        self.num_calls += 1
        codes = unpack_integers(request["fine"], "fine", 2, self.spec.codebook_size)
        if not 1 <= len(codes) <= self.spec.fine.num_codebooks:
            raise InvalidRequest(
                f"fine must have 1…{self.spec.fine.num_codebooks} rows, not {len(codes)}"
            )
        sound, report = await traced(
            "codec",
            headers_of(request),
            self.worker.stage(FineCodes(codes.astype(np.int32)), unpack_call(request)),
        )
        return self.result(
            samples=sound.samples, sample_rate=sound.sample_rate, report=pack_report(report)
        )
