"""Service: checks requests and begins them, the same for HTTP and handles; knows no Ray.

`remote` gives it the stages of a cluster, tests those of one process.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import secrets
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from deployments.admission import Admission
from deployments.config import AppConfig
from deployments.generation import AtEnd, Generation, ServedStages
from deployments.provenance import Provenance
from deployments.recent import Recent
from deployments.request_meter import refusals_counted
from deployments.store_access import StoreAccess
from pipeline import telemetry
from pipeline.errors import InvalidRequest, TextTooLong
from pipeline.payloads import HistoryPrompt
from pipeline.request import SynthesisRequest
from pipeline.spec import NUMERICS_VERSION
from pipeline.synthesis import Progress
from pipeline.voices import VoiceLibrary, read_voice

DEFAULT_VOICE = "default"  # no history prompt


class Service:
    """One model, however it is spread. For one event loop.

    Raises:
        InvalidRequest: what is configured of provenance is not there, or does not work.
    """

    def __init__(
        self,
        config: AppConfig,
        stages: ServedStages,
        voices: VoiceLibrary,
        *,
        model_digest: str,
        store: StoreAccess,
    ) -> None:
        self.config, self.stages, self.voices, self.store = config, stages, voices, store
        self.model_digest = model_digest
        self.recent = Recent()
        self.provenance = Provenance(config.provenance)
        limits = config.admission
        self.admission = Admission(limits.max_running, limits.max_waiting)
        # their own room: they never stand before another request
        self.low_admission = Admission(limits.max_low, limits.max_waiting)

    def over(self, stages: ServedStages) -> Service:
        """Return the same service over other stages."""
        other = copy.copy(self)
        other.stages = stages
        return other

    @property
    def model_names(self) -> tuple[str, ...]:
        """The model's own name, and those it is also called by."""
        return (self.config.model.name, *self.config.model.aliases)

    async def start(
        self,
        fields: Mapping[str, Any],
        voices: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        *,
        is_streamed: bool = False,
        headers: Mapping[str, str] | None = None,
        at_end: AtEnd | None = None,
        request_id: str = "",
        owner: str | None = None,
        way: str | None = None,
        is_low: bool = False,
    ) -> Generation:
        """Check a request; nothing runs yet.

        Args:
            fields: of `SynthesisRequest`; `voice` may also be an alias or `default`.
            voices: presets given as arrays, by the names that the fields use for them.
            is_streamed: somebody listens from the first segment on.
            headers: W3C trace context of the caller, where there is one.
            at_end: what is done with the generation when all of it is made.
            request_id: by which its caller knows it. owner: the name of the caller's key.
            way: in which it came, for the metrics; None: nothing is counted, it is only checked.
            is_low: it waits for all others, and is given the longest time there is.

        Raises:
            InvalidRequest, InvalidVoice, VoiceNotFound.
        """
        began = time.monotonic()
        with refusals_counted(way):
            request = self._checked(fields)
            histories = {
                name: await self.history(name, voices or {}) for name in _voices_named(request)
            }
        timeout_s = request.timeout_s or self._usual_timeout_s(is_low)
        seed = request.seed if request.seed is not None else secrets.randbelow(2**32)
        return Generation(
            self,
            request,
            histories,
            seed,
            began + timeout_s,
            began,
            progress,
            is_streamed,
            telemetry.joined(headers),
            at_end,
            request_id,
            owner,
            way or "",
            is_low,
        )

    def _usual_timeout_s(self, is_low: bool) -> float:
        limits = self.config.admission
        return limits.max_timeout_s if is_low else limits.timeout_s

    def _checked(self, fields: Mapping[str, Any]) -> SynthesisRequest:
        """Return a request within the limits, its voices under their real names."""
        request = SynthesisRequest.parse(fields)
        request.coarse.for_model(self.stages.spec.coarse)
        limits = self.config.admission
        if sum(len(turn.text) for turn in request.all_turns) > limits.max_text_chars:
            raise TextTooLong(f"the text is longer than {limits.max_text_chars:,} characters")
        if (request.timeout_s or limits.timeout_s) > limits.max_timeout_s:
            raise InvalidRequest(f"timeout_s must be at most {limits.max_timeout_s:g}")
        return _renamed(request, {name: self._real_name(name) for name in _voices_named(request)})

    def digest(self, *request: Any) -> str:
        """Return the digest of what decides a result, as far as it is known before it is made.

        request: of JSON's types.
        """
        decisive = [
            request,
            self.model_digest,
            self.config.model.precision,
            NUMERICS_VERSION,
        ]
        if self.provenance.identity is not None:
            decisive.append(self.provenance.identity)
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def _real_name(self, name: str) -> str | None:
        name = self.config.voices.aliases.get(name, name)
        return None if name == DEFAULT_VOICE else name

    async def history(self, name: str, given: Mapping[str, Any]) -> HistoryPrompt:
        """Find a voice and check it.

        Args:
            given: presets as arrays, by the names that are used for them.

        Raises:
            InvalidRequest, InvalidVoice, VoiceNotFound, StoreUnavailable.
        """
        source = given.get(name, name)
        read = partial(
            read_voice, source, spec=self.stages.spec, voices=self.voices, allow_paths=False
        )
        if name in given or await asyncio.to_thread(self.voices.is_at_hand, name):
            return await asyncio.to_thread(read)
        return await self.store.run(read)  # may ask a bucket


def _voices_named(request: SynthesisRequest) -> list[str]:
    return list(dict.fromkeys(t.voice for t in request.all_turns if t.voice is not None))


def _renamed(request: SynthesisRequest, names: Mapping[str, str | None]) -> SynthesisRequest:
    """Put presets' names in the place of aliases, None in that of `default`."""
    change: dict[str, Any] = {}
    if request.voice is not None:
        change["voice"] = names.get(request.voice)
    if request.turns is not None:
        change["turns"] = tuple(
            t.model_copy(update={"voice": names.get(t.voice) if t.voice else None})
            for t in request.turns
        )
    return request.model_copy(update=change)
