"""FineStage: the first codebooks ▸ all of them, on its own pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from deployments.builtin_errors import raises_builtins
from deployments.stage import StageReplica
from deployments.wire import (
    Wire,
    check_keys,
    headers_of,
    pack_report,
    unpack_call,
    unpack_integers,
    unpack_settings,
)
from pipeline.payloads import CoarseCodes
from pipeline.request import FineSettings
from pipeline.stages.fine import FineStage as Stage
from pipeline.telemetry import traced
from pipeline.workers import Placement, Worker, open_fine


class FineStage(StageReplica):
    """The third transformer."""

    def open(self, place: Placement) -> Worker[Stage]:
        return open_fine(self.checkpoint, place)

    @raises_builtins
    async def generate(self, request: Mapping[str, Any]) -> Wire:
        """Turn `coarse`, [1…7, F], into `fine`, int32 [8, F]; see `wire` for the keys.

        Raises:
            ValueError, LookupError, TimeoutError, RuntimeError: see `builtin_errors`.
        """
        check_keys(request, "coarse")
        self.check_model(request)
        self.num_calls += 1
        codes = unpack_integers(request["coarse"], "coarse", 2, self.spec.codebook_size)
        settings = unpack_settings(FineSettings, request.get("settings"))
        fine, report = await traced(
            "fine",
            headers_of(request),
            self.worker.stage(
                CoarseCodes(codes.astype(np.int32)),
                self.history(request),
                settings,
                unpack_call(request),
            ),
        )
        return self.result(fine=fine.codes, report=pack_report(report))
