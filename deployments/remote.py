"""RemoteStages: the stages behind Serve handles; fulfils `synthesis.Stages`.

Here, and only here, Serve's own errors become ours, and a call that was lost with its replica is
made again: the tokens at hand and the seed are all that it depends on, so its bytes are the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from ray.exceptions import RayActorError, RayError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, RequestCancelledError
from ray.serve.handle import DeploymentHandle

from deployments import metrics
from deployments.builtin_errors import from_builtin
from deployments.wire import Wire, pack_call, unpack_report
from pipeline.errors import (
    BarkError,
    Cancelled,
    DeadlineExceeded,
    EngineFailed,
    ModelChanged,
    Overloaded,
)
from pipeline.payloads import (
    CoarseCodes,
    FineCodes,
    HistoryPrompt,
    SemanticTokens,
    StageReport,
    TextTokens,
    Waveform,
)
from pipeline.request import CoarseSettings, FineSettings, SemanticSettings
from pipeline.spec import BarkSpec
from pipeline.stages.decoding import Call
from pipeline.stages.text import TextStage
from pipeline.telemetry import failed_attempt

log = logging.getLogger(__name__)

# A call is repeated at most so often after the death of the replica that had it.
MAX_REPEATS: Final = 2
# While a new model rolls out, replicas of the old one may be found for so long.
_SAME_MODEL_FOR_S: Final = 3.0
_PAUSE_S: Final = 0.1


class RemoteStages:
    """Four deployments. The text is cut by the ingress's own copy of the tokenizer.

    handles: by stage, "semantic", "coarse", "fine", "codec". max_low: calls of low priority at
    once, that others find room at a stage.
    """

    def __init__(
        self,
        handles: Mapping[str, DeploymentHandle[Any]],
        spec: BarkSpec,
        text: TextStage,
        *,
        max_low: int = 16,
    ) -> None:
        self.spec = spec
        self._handles, self._text = dict(handles), text
        self._classes: dict[str, str] = {}
        self._low_calls = asyncio.Semaphore(max_low)

    @property
    def device_class(self) -> str:
        """What the stages ran on when last heard of; more than one name where they differ."""
        return "+".join(sorted(set(self._classes.values())))

    async def learn(self, stage: str) -> None:
        """Ask a stage what it runs on, unless it has told."""
        if stage not in self._classes:
            facts = await self._handles[stage].facts.remote()
            self._classes.setdefault(stage, facts["device_class"])

    def count_tokens(self, text: str) -> int:
        return self._text.num_tokens(text)

    def text(self, text: str) -> TextTokens:
        return self._text(text)

    async def semantic(
        self,
        text: TextTokens,
        history: HistoryPrompt | None,
        settings: SemanticSettings,
        call: Call,
    ) -> tuple[SemanticTokens, StageReport]:
        found = await self._call(
            "semantic", pack_call({"text": text.text}, history, settings, call, None), call
        )
        tokens = SemanticTokens(
            np.array(found["semantic"]), found["finish_reason"], found["model_digest"]
        )
        return tokens, unpack_report(found["report"])

    async def coarse(
        self,
        semantic: SemanticTokens,
        history: HistoryPrompt | None,
        settings: CoarseSettings,
        call: Call,
    ) -> tuple[CoarseCodes, StageReport]:
        model, payload = semantic.model_digest, {"semantic": semantic.ids}
        found = await self._call("coarse", pack_call(payload, history, settings, call, model), call)
        return CoarseCodes(np.array(found["coarse"]), model), unpack_report(found["report"])

    async def fine(
        self,
        coarse: CoarseCodes,
        history: HistoryPrompt | None,
        settings: FineSettings,
        call: Call,
    ) -> tuple[FineCodes, StageReport]:
        model, payload = coarse.model_digest, {"coarse": coarse.codes}
        found = await self._call("fine", pack_call(payload, history, settings, call, model), call)
        return FineCodes(np.array(found["fine"]), model), unpack_report(found["report"])

    async def codec(self, fine: FineCodes, call: Call) -> tuple[Waveform, StageReport]:
        request = pack_call({"fine": fine.codes}, None, None, call, fine.model_digest)
        found = await self._call("codec", request, call)
        sound = Waveform(np.array(found["samples"]), int(found["sample_rate"]))
        return sound, unpack_report(found["report"])

    async def _call(self, stage: str, request: Wire, call: Call) -> Wire:
        """Call a stage, in its turn if others may go first."""
        if not call.is_low:
            return await self._call_now(stage, request, call)
        async with self._low_calls:
            return await self._call_now(stage, request, call)

    async def _call_now(self, stage: str, request: Wire, call: Call) -> Wire:
        """Call a stage; again if its replica dies, or has another model and others may not."""
        deaths, began = 0, time.monotonic()
        while True:
            try:
                found = await self._in_time(stage, request, call)
                self._classes[stage] = found["device_class"]
                if call.on_progress is not None:
                    call.on_progress(1, 1)  # of this segment; how far within it is not heard of
                return found
            except RayActorError as error:
                deaths += 1
                if deaths > MAX_REPEATS:
                    raise EngineFailed(f"the {stage} stage died {deaths} times") from error
                log.warning("a replica of %s died with a call; making it again", stage)
                metrics.RETRIES.add(stage=stage, reason="replica_died")
                request["trace"] = failed_attempt(stage, deaths, error)
            except ModelChanged:
                if time.monotonic() - began > _SAME_MODEL_FOR_S:
                    raise
                metrics.RETRIES.add(stage=stage, reason="model_changed")
                await asyncio.sleep(_PAUSE_S)

    async def _in_time(self, stage: str, request: Wire, call: Call) -> Wire:
        """Make one call, no longer than the deadline; translate what it raises.

        Raises:
            RayActorError: the replica died.
        """
        left_s = None if call.deadline_s is None else call.deadline_s - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise DeadlineExceeded("The request's time ran out before it was done.")
        response = self._handles[stage].generate.remote(request)
        try:
            async with asyncio.timeout(left_s):
                found: Wire = await response
                return found
        except TimeoutError as error:
            _cancel(response)
            raise from_builtin(error) or DeadlineExceeded(
                "The request's time ran out before it was done."
            ) from None
        except asyncio.CancelledError:
            _cancel(response)
            raise
        except RayActorError:
            raise
        except BackPressureError as error:
            raise Overloaded(f"the {stage} stage is full", error.retry_after_s or 1.0) from error
        except (RequestCancelledError, TaskCancelledError) as error:
            raise Cancelled("The request was cancelled.") from error
        except BarkError:
            raise
        except Exception as error:
            ours = from_builtin(error)
            if ours is not None:
                raise ours from error
            if isinstance(error, RayError):
                raise EngineFailed(f"the {stage} stage failed: {type(error).__name__}") from error
            raise


def _cancel(response: Any) -> None:
    """Cancel a call: the stage's coroutine, and with it the slot; Ray's method has no types."""
    response.cancel()
