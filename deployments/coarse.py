"""CoarseStage: semantic tokens ▸ the first two codebooks, on its own pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
from pipeline.payloads import SemanticTokens
from pipeline.request import CoarseSettings
from pipeline.stages.coarse import CoarseStage as Stage
from pipeline.telemetry import traced
from pipeline.workers import Placement, Worker, open_coarse


class CoarseStage(StageReplica):
    """The second transformer."""

    slots = "coarse_slots"

    def open(self, place: Placement) -> Worker[Stage]:
        return open_coarse(self.checkpoint, place)

    @raises_builtins
    async def generate(self, request: Mapping[str, Any]) -> Wire:
        """Turn `semantic` into `coarse`, int32 [2, F]; see `wire` for the keys.

        Raises:
            ValueError, LookupError, TimeoutError, RuntimeError: see `builtin_errors`.
        """
        check_keys(request, "semantic")
        self.check_model(request)
        self.num_calls += 1
        ids = unpack_integers(request["semantic"], "semantic", 1, self.spec.semantic.vocab_size)
        settings = unpack_settings(CoarseSettings, request.get("settings"))
        codes, report = await traced(
            "coarse",
            headers_of(request),
            self.worker.stage(
                SemanticTokens(ids), self.history(request), settings, unpack_call(request)
            ),
        )
        return self.result(coarse=codes.codes, report=pack_report(report))
