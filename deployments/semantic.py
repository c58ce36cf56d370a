"""SemanticStage: text ▸ semantic tokens, on its own pool."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from deployments.builtin_errors import raises_builtins
from deployments.stage import StageReplica
from deployments.wire import Wire, check_keys, headers_of, pack_report, unpack_call, unpack_settings
from pipeline.errors import InvalidRequest
from pipeline.request import SemanticSettings
from pipeline.stages.semantic import SemanticStage as Stage
from pipeline.stages.text import TextStage
from pipeline.telemetry import traced
from pipeline.workers import Placement, Worker, open_semantic


class SemanticStage(StageReplica):
    """The first transformer."""

    slots = "semantic_slots"

    def open(self, place: Placement) -> Worker[Stage]:
        return open_semantic(self.checkpoint, place)

    @cached_property
    def _text(self) -> TextStage:
        path = self.checkpoint.tokenizer_path
        if path is None:
            from pipeline.models.hub_model import fetch_vocabulary

            path = fetch_vocabulary()
        return TextStage(path, self.spec.semantic)

    @raises_builtins
    async def generate(self, request: Mapping[str, Any]) -> Wire:
        """Turn one segment of text into `semantic`, int64 [n]; see `wire` for the keys.

        The text is cut into word pieces here, so that pieces and model always belong together.

        Raises:
            ValueError, LookupError, TimeoutError, RuntimeError: see `builtin_errors`.
        """
        check_keys(request, "text")
        text = request["text"]
        if not isinstance(text, str):
            raise InvalidRequest(f"text must be a string, not {type(text).__name__}")
        self.num_calls += 1
        pieces, settings = (
            self._text(text),
            unpack_settings(SemanticSettings, request.get("settings")),
        )
        tokens, report = await traced(
            "semantic",
            headers_of(request),
            self.worker.stage(pieces, self.history(request), settings, unpack_call(request)),
        )
        return self.result(
            semantic=tokens.ids,
            finish_reason=tokens.finish_reason,
            num_dropped=pieces.num_dropped,
            unknown_words=list(pieces.unknown_words),
            report=pack_report(report),
        )
