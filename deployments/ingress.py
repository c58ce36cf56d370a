"""Ingress: the way in, for HTTP and for handles of other jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments import metrics
from deployments.access import Access
from deployments.builtin_errors import builtins_raised, raises_builtins
from deployments.config import APP_NAME, INGRESS, AppConfig
from deployments.front_meter import FrontMeter
from deployments.generation import Generation
from deployments.generation_routes import Generations
from deployments.http_app import create_app
from deployments.keeping import label_of
from deployments.logs import set_up_logs
from deployments.meters import Reporter
from deployments.ray_metrics import set_up_metrics
from deployments.remote import RemoteStages
from deployments.service import Service
from deployments.stage import this_replica
from deployments.store_access import StoreAccess
from deployments.tracing import set_up_tracing
from deployments.webhooks import Webhooks
from deployments.wire import Wire, headers_of, is_low
from pipeline.errors import InvalidRequest, Overloaded
from pipeline.models.checkpoint import open_checkpoint
from pipeline.models.locate import locate
from pipeline.stages.text import TextStage
from pipeline.voice_sources import voice_library

_READY_WITHIN_S = 5.0
_GIVEN = "given"  # the name of a voice that came as arrays


class Ingress:
    """Knows the model's numbers, its tokenizer and its voices; the networks are the stages'."""

    def __init__(
        self,
        config: AppConfig,
        semantic: DeploymentHandle[Any],
        coarse: DeploymentHandle[Any],
        fine: DeploymentHandle[Any],
        codec: DeploymentHandle[Any],
    ) -> None:
        set_up_logs(config.logs, *this_replica())
        set_up_tracing(*this_replica())
        set_up_metrics(metrics.OF_THE_INGRESS)
        self._handles = {"semantic": semantic, "coarse": coarse, "fine": fine, "codec": codec}
        model = config.model
        checkpoint = open_checkpoint(locate(model.name, revision=model.revision))
        vocabulary = model.tokenizer or checkpoint.tokenizer_path
        if vocabulary is None:
            from pipeline.models.hub_model import fetch_vocabulary

            vocabulary = fetch_vocabulary()
        text = TextStage(vocabulary, checkpoint.spec.semantic)
        store = StoreAccess(config)
        self.service = Service(
            config,
            RemoteStages(self._handles, checkpoint.spec, text, max_low=config.admission.max_low),
            voice_library(model.name, checkpoint, config.voices.folders, store.presets),
            model_digest=checkpoint.digest,
            store=store,
        )
        self._generations = Generations(self.service, Webhooks(config.webhooks))
        self._access = Access(config.access)
        self._reporter = Reporter(FrontMeter(self.service, self._generations.runner).report)

    # ── HTTP ─────────────────────────────────────────────────────────────────────────────────────
    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the routes; Serve asks once, when the replica starts."""
        return create_app(
            self.service,
            self._generations,
            self._access,
            self._ready,
            self._find_trace,
            behind_proxy=True,
        )

    async def _ready(self) -> None:
        """Ask every stage for a sign of life.

        Raises:
            Overloaded: names those that gave none.
        """

        async def silent(name: str) -> str | None:
            response: Any = self._handles[name].facts.remote()
            try:
                async with asyncio.timeout(_READY_WITHIN_S):
                    await response
            except Exception:
                response.cancel()
                return name
            return None

        missing = [name for name in await asyncio.gather(*map(silent, self._handles)) if name]
        if missing:
            raise Overloaded(f"no answer yet from {', '.join(missing)}", 2.0)

    async def _find_trace(self, name: str) -> Wire | None:
        """Look here, then ask the other replicas."""
        if (found := await self.trace_of(name)) is not None:
            return found
        ingress = serve.get_deployment_handle(INGRESS, APP_NAME)
        answers = await ingress.broadcast("trace_of", name).results_async()
        return next((found for found in answers if found is not None), None)

    async def trace_of(self, name: str) -> Wire | None:
        """Return where the time of one of this replica's recent requests went."""
        found = self.service.recent.find(name)
        return None if found is None else dict(found)

    # ── handles: dicts, numpy arrays, bytes and builtins only ────────────────────────────────────
    @raises_builtins
    async def generate(self, request: Mapping[str, Any]) -> Wire:
        """Speak a text: `text` or `turns`, and any field of `pipeline.request.SynthesisRequest`.

        `priority: low` lets all others go first.
        `voice` may be a preset's name or a mapping of its three arrays; `format` one of wav, mp3,
        … for bytes, None for float32 samples.

        Returns:
            `audio` (float32 [N], or bytes), `sample_rate, id, seed, finish_reason, duration_s,
            timings, unknown_words, num_dropped, model_digest`, and `tokens`, the three arrays
            under Suno's names: a voice preset.

        Raises:
            ValueError, LookupError, TimeoutError, RuntimeError: see `builtin_errors`.
        """
        generation, audio_format = await self._start(request)
        async for _ in generation.segments():
            pass
        clip = await generation.clip()
        audio: Any = clip.samples
        if audio_format is not None:
            label = label_of(generation)
            audio = await asyncio.to_thread(
                self.service.provenance.file,
                clip.samples,
                clip.sample_rate,
                audio_format,
                label,
            )
        return {
            "audio": audio,
            "sample_rate": clip.sample_rate,
            "tokens": dict(clip.tokens.as_mapping()),
            "duration_s": clip.duration_s,
            "num_dropped": clip.num_dropped,
            **_end(generation),
        }

    async def generate_stream(self, request: Mapping[str, Any]) -> AsyncIterator[Wire]:
        """Speak as `generate` does; yield each segment's float32 `audio` as soon as it is there.

        Every item has `segment, audio, sample_rate, text, is_last`; the last also what
        `generate` tells of the whole. Call with `handle.options(stream=True)`, and `cancel()` a
        stream that is given up.
        """
        async with builtins_raised():
            generation, audio_format = await self._start(request, is_streamed=True)
            if audio_format is not None:
                raise InvalidRequest("a stream is of float32 samples; leave out format")
            async with aclosing(generation.segments()) as segments:
                async for segment in segments:
                    is_last = len(generation.done) == generation.num_segments
                    yield {
                        "segment": segment.segment.index,
                        "audio": segment.sound.samples,
                        "sample_rate": segment.sound.sample_rate,
                        "text": segment.segment.text,
                        "is_last": is_last,
                        **(_end(generation) if is_last else {}),
                    }

    @raises_builtins
    async def identify(self, request: Mapping[str, Any]) -> Wire:
        """Check a request as `generate` does; return `id` and `seed` of what it would make.

        The id is certain where a seed was given.
        """
        await self._learn_devices()
        generation, _ = await self._start(request)
        return {"id": generation.id, "seed": generation.seed}

    @raises_builtins
    async def make(self, request: Mapping[str, Any]) -> Wire:
        """Speak as `generate` does, for callers who keep the result as this service would.

        Returns:
            `audio`, a wav file; `tokens`, as `generate`; `manifest`, JSON's types.
        """
        generation, _ = await self._start(request)
        clip = await generation.clip()
        file = self.service.provenance.file
        label = label_of(generation)
        return {
            "audio": await asyncio.to_thread(file, clip.samples, clip.sample_rate, "wav", label),
            "tokens": dict(clip.tokens.as_mapping()),
            "manifest": {**generation.manifest(clip), "owner": generation.owner},
        }

    async def _learn_devices(self) -> None:
        """Ask the stages what they run on, unless that is known: it is a part of ids."""
        stages = self.service.stages
        assert isinstance(stages, RemoteStages)
        await asyncio.gather(*(stages.learn(name) for name in self._handles))

    async def facts(self) -> Wire:
        """Return what this replica is doing."""
        admission = self.service.admission
        return {
            "running": admission.num_running,
            "waiting": admission.num_waiting,
            "model_digest": self.service.model_digest,
        }

    async def drain(self) -> None:
        """Turn new requests away, and return when the last one is answered."""
        await asyncio.gather(
            self._generations.runner.drain(),
            self.service.admission.drain(),
            self.service.low_admission.drain(),
        )

    async def _start(
        self, request: Mapping[str, Any], *, is_streamed: bool = False
    ) -> tuple[Generation, str | None]:
        if not isinstance(request, Mapping):
            raise InvalidRequest(f"the request must be a dict, not {type(request).__name__}")
        fields = dict(request)
        audio_format, headers = fields.pop("format", None), headers_of(fields)
        fields.pop("trace", None)
        waits_for_others = is_low(fields)
        fields.pop("priority", None)
        given = {}
        if isinstance(fields.get("voice"), Mapping):
            given[_GIVEN] = fields["voice"]
            fields["voice"] = _GIVEN
        generation = await self.service.start(
            fields,
            given,
            is_streamed=is_streamed,
            headers=headers,
            way="handle",
            is_low=waits_for_others,
        )
        return generation, audio_format


def _end(generation: Generation) -> Wire:
    """Return what is known of the whole when its last segment is there."""
    done = generation.done
    reasons = {segment.finish_reason for segment in done}
    words = dict.fromkeys(word for segment in done for word in segment.unknown_words)
    timings = {"total": generation.total_s, "first_audio": generation.first_audio_s, "queue": 0.0}
    for report in (report for segment in done for report in segment.reports):
        timings[report.stage] = timings.get(report.stage, 0.0) + report.device_s
        timings["queue"] += report.queue_s
    return {
        "id": generation.id,
        "seed": generation.seed,
        "finish_reason": "length" if "length" in reasons else "stop",
        "timings": timings,
        "unknown_words": list(words),
        "model_digest": done[0].model_digest,
    }
