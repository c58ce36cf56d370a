"""Service: one request from fields to sound, the same for HTTP and handles; knows no Ray.

Checks the request, waits for admission, runs `synthesize` over whatever stages it was given, and
tells who made the result. `remote` gives it the stages of a cluster, tests those of one process.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from deployments.admission import Admission
from deployments.config import AppConfig
from pipeline.clip import Clip
from pipeline.errors import InvalidRequest, TextTooLong
from pipeline.identity import generation_id
from pipeline.payloads import HistoryPrompt
from pipeline.request import SynthesisRequest
from pipeline.synthesis import Progress, SegmentResult, Stages, synthesize
from pipeline.voices import VoiceLibrary, read_voice, voice_digest

DEFAULT_VOICE = "default"  # no history prompt


class ServedStages(Stages, Protocol):
    """Stages that know what they run on: part of a result's identity."""

    @property
    def device_class(self) -> str: ...


@dataclass(slots=True, eq=False)
class Generation:
    """One request under way. Iterate over `segments` once, to the end; then ask for `clip`.

    id, num_segments: known from the first segment on; only then is it certain which model speaks.
    """

    service: Service
    request: SynthesisRequest
    histories: dict[str, HistoryPrompt]
    seed: int
    deadline_s: float
    began_s: float
    progress: Progress | None = None
    is_streamed: bool = False
    num_segments: int = 0
    done: list[SegmentResult] = field(default_factory=list)
    first_audio_s: float = 0.0
    total_s: float = 0.0

    @property
    def voice_digests(self) -> dict[str, str]:
        return {name: voice_digest(prompt) for name, prompt in self.histories.items()}

    @property
    def id(self) -> str:
        """The identity of the result; the first segment must be there."""
        return generation_id(
            self.request,
            self.seed,
            model_digest=self.done[0].model_digest or self.service.model_digest,
            voice_digests=self.voice_digests,
            precision=self.service.config.model.precision,
            device_class=self.service.stages.device_class,
        )

    async def segments(self) -> AsyncGenerator[SegmentResult]:
        """Yield segments in order, each as soon as it and all before it are made.

        Raises:
            Overloaded, DeadlineExceeded, InvalidRequest, EngineFailed.
        """
        turns = self.request.all_turns
        voices = [None if t.voice is None else self.histories[t.voice] for t in turns]
        async with self.service.admission.admit(self.deadline_s):
            running = synthesize(
                self.request,
                voices,
                self.seed,
                self.service.stages,
                deadline_s=self.deadline_s,
                progress=self._told,
                first_alone=self.is_streamed,
            )
            try:
                async for segment in running:
                    self.done.append(segment)
                    self.total_s = time.monotonic() - self.began_s
                    self.first_audio_s = self.first_audio_s or self.total_s
                    yield segment
            finally:
                await running.aclose()  # cancels what is still in flight

    def _told(self, stage: str, segment: int, done: int, total: int) -> None:
        if stage == "text":
            self.num_segments = total
        if self.progress is not None:
            self.progress(stage, segment, done, total)

    async def clip(self) -> Clip:
        """Run what is left, and return the whole."""
        if not self.done:
            async for _ in self.segments():
                pass
        return await asyncio.to_thread(
            Clip.of,
            self.id,
            self.request,
            self.voice_digests,
            self.seed,
            self.done,
            self.service.stages.spec.sample_rate,
            total_s=self.total_s,
            first_audio_s=self.first_audio_s,
        )


class Service:
    """One model, however it is spread. For one event loop."""

    def __init__(
        self,
        config: AppConfig,
        stages: ServedStages,
        voices: VoiceLibrary,
        *,
        model_digest: str,
    ) -> None:
        self.config, self.stages, self.voices = config, stages, voices
        self.model_digest = model_digest
        self.admission = Admission(config.admission.max_running, config.admission.max_waiting)

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
    ) -> Generation:
        """Check a request; nothing runs yet.

        Args:
            fields: of `SynthesisRequest`; `voice` may also be an alias or `default`.
            voices: presets given as arrays, by the names that the fields use for them.
            is_streamed: somebody listens from the first segment on.

        Raises:
            InvalidRequest, InvalidVoice, VoiceNotFound.
        """
        began = time.monotonic()
        request = SynthesisRequest.parse(fields)
        limits = self.config.admission
        if sum(len(turn.text) for turn in request.all_turns) > limits.max_text_chars:
            raise TextTooLong(f"the text is longer than {limits.max_text_chars:,} characters")
        timeout_s = request.timeout_s or limits.timeout_s
        if timeout_s > limits.max_timeout_s:
            raise InvalidRequest(f"timeout_s must be at most {limits.max_timeout_s:g}")
        names = {name: self._real_name(name) for name in _voices_named(request)}
        request = _renamed(request, names)
        histories = {
            name: await asyncio.to_thread(self._history, name, voices or {})
            for name in _voices_named(request)
        }
        seed = request.seed if request.seed is not None else secrets.randbelow(2**32)
        return Generation(
            self, request, histories, seed, began + timeout_s, began, progress, is_streamed
        )

    def _real_name(self, name: str) -> str | None:
        name = self.config.voices.aliases.get(name, name)
        return None if name == DEFAULT_VOICE else name

    def _history(self, name: str, given: Mapping[str, Any]) -> HistoryPrompt:
        source = given.get(name, name)
        return read_voice(source, spec=self.stages.spec, voices=self.voices, allow_paths=False)


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
