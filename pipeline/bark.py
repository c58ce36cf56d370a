"""Bark: the public face in Python. Load a model, speak, or run one stage by itself."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.clip import Clip
from pipeline.engine.runner import Device
from pipeline.errors import InvalidRequest, InvalidVoice
from pipeline.identity import generation_id
from pipeline.local import LocalStages
from pipeline.loop_thread import LoopThread
from pipeline.manifest import manifest
from pipeline.models.checkpoint import Checkpoint, open_checkpoint
from pipeline.models.locate import locate
from pipeline.payloads import (
    CoarseCodes,
    FineCodes,
    Float32,
    HistoryPrompt,
    Int32,
    Int64,
    SemanticTokens,
    check_range,
)
from pipeline.request import (
    CoarseSettings,
    FineSettings,
    SynthesisRequest,
)
from pipeline.spec import PRECISIONS, BarkSpec, Precision
from pipeline.stages.decoding import Call
from pipeline.stages.text import read_vocab
from pipeline.store import Store
from pipeline.synthesis import Progress, SegmentResult, synthesize
from pipeline.telemetry import SEED, request_span
from pipeline.voice_files import voice_digest
from pipeline.voice_sources import voice_library
from pipeline.voices import VoiceLibrary, read_voice
from pipeline.watermark import Watermark

Voice = str | Path | Mapping[str, NDArray[Any]] | HistoryPrompt
DEFAULT_SLOTS = 8


class Bark:
    """One model in this process. Thread-safe: calls from many threads share its batches.

    Its engines' threads live until `close`, or the end of a `with` block. Not to be called from
    a progress callback, which runs on one of them.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        stages: LocalStages,
        voices: VoiceLibrary,
        device: Device,
        precision: Precision,
        name: str,
        watermark: Watermark | None = None,
    ) -> None:
        self.checkpoint, self.stages, self.voices = checkpoint, stages, voices
        self.device, self.precision, self.name = device, precision, name
        self.watermark = watermark
        self._loop = LoopThread()

    @classmethod
    def load(
        cls,
        model: str | Path = "nano",
        *,
        device: str = "auto",
        precision: str = "fp32",
        backend: str = "auto",
        slots: int = DEFAULT_SLOTS,
        revision: str | None = None,
        tokenizer: str | Path | None = None,
        voice_folders: Sequence[Path] = (),
        store: Store | None = None,
        watermark: bool = False,
    ) -> Bark:
        """Load a model.

        Args:
            model: `nano`, a hub name such as `suno/bark-small`, a folder in Hugging Face or
                Suno layout, or `s3://bucket/prefix`.
            device: `cpu`, `cuda`, `cuda:N`; `auto` is CUDA where there is one.
            precision: `fp32` (the reference), `bf16` or `int8`.
            backend: `native`, `torch`, `graph` or `auto`; see engine/runner.py.
            slots: sequences that run at once in each of the two autoregressive stages.
            revision: of a hub model: a branch, tag or commit.
            tokenizer: a vocab.txt or tokenizer.json, for a checkpoint that has none.
            voice_folders: further folders of presets, before the checkpoint's own.
            store: a store with more of them.
            watermark: mark what `generate` makes as synthetic, in the sound itself; a mark makes
                another clip, with another id. Needs the extra `watermark`.

        Raises:
            InvalidRequest: an option that does not exist here, or an extra that is not installed.
            InvalidCheckpoint: no such model, or one that is broken; names the file or key.
        """
        if precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise InvalidRequest(f"unknown precision {precision!r}; use one of {known}.")
        if slots < 1:
            raise InvalidRequest(f"slots must be at least 1, not {slots}.")
        mark = Watermark() if watermark else None
        where = Device(device, backend)
        folder = locate(str(model), revision=revision)
        checkpoint = open_checkpoint(folder)
        stages = LocalStages(
            checkpoint,
            device=where,
            precision=precision,
            num_slots=slots,
            tokenizer=None if tokenizer is None else Path(tokenizer),
        )
        library = voice_library(str(model), checkpoint, voice_folders, store)
        return cls(checkpoint, stages, library, where, precision, str(model), mark)

    @property
    def spec(self) -> BarkSpec:
        """The model's numbers."""
        return self.stages.spec

    @property
    def sample_rate(self) -> int:
        """Samples a second of every clip."""
        return self.spec.sample_rate

    # ── whole generations ────────────────────────────────────────────────────────────────────────
    def generate(
        self,
        text: str | None = None,
        *,
        voice: Voice | None = None,
        seed: int | None = None,
        progress: Progress | None = None,
        **fields: Any,
    ) -> Clip:
        """Speak a text, of any length, or a dialogue (`turns=[{"voice": …, "text": …}]`).

        Args:
            voice: a preset's name, a path to an .npz, or a mapping of the three arrays.
            seed: 0 … 2**63 - 1; None chooses one, which the clip reports.
            progress: told (stage, segment, done, total), from other threads.
            fields: every other field of `SynthesisRequest`.

        Raises:
            InvalidRequest, InvalidVoice, VoiceNotFound, DeadlineExceeded, EngineFailed.
        """
        return self._loop.run(
            self.generate_async(text, voice=voice, seed=seed, progress=progress, **fields)
        )

    def generate_many(self, requests: Sequence[Mapping[str, Any] | str]) -> list[Clip]:
        """Speak several requests (texts, or mappings of `generate`'s arguments) as one batch.

        Each clip is what `generate` would give alone. The first error cancels the others.
        """

        async def all_of_them() -> list[Clip]:
            tasks = [
                asyncio.create_task(
                    self.generate_async(**({"text": r} if isinstance(r, str) else dict(r)))
                )
                for r in requests
            ]
            try:
                return list(await asyncio.gather(*tasks))
            finally:
                for task in tasks:
                    task.cancel()

        return self._loop.run(all_of_them())

    async def generate_async(
        self,
        text: str | None = None,
        *,
        voice: Voice | None = None,
        seed: int | None = None,
        progress: Progress | None = None,
        **fields: Any,
    ) -> Clip:
        """Do what `generate` does, for callers with an event loop; cancelling frees its slots."""
        started = time.monotonic()
        # may read files, or fetch a preset: not on the event loop
        request, known = await asyncio.to_thread(self._request, text, voice, seed, fields)
        histories = [None if t.voice is None else known[t.voice] for t in request.all_turns]
        seed = request.seed if request.seed is not None else secrets.randbelow(2**32)
        deadline_s = None if request.timeout_s is None else started + request.timeout_s
        first_audio_s = 0.0
        segments: list[SegmentResult] = []
        with request_span(None, **{SEED: seed}) as (_, context):
            async for segment in synthesize(
                request,
                histories,
                seed,
                self.stages,
                deadline_s=deadline_s,
                progress=progress,
                context=context,
                finish=None if self.watermark is None else self.watermark.finish,
            ):
                first_audio_s = first_audio_s or time.monotonic() - started
                segments.append(segment)
        total_s = time.monotonic() - started

        def clip() -> Clip:
            digests = {name: voice_digest(prompt) for name, prompt in known.items()}
            return Clip.of(
                self._identify(request, seed, digests),
                request,
                digests,
                seed,
                segments,
                self.sample_rate,
                total_s=total_s,
                first_audio_s=first_audio_s,
            )

        # joins the sound, and at first hashes the model's files
        return await asyncio.to_thread(clip)

    @cached_property
    def model_digest(self) -> str:
        """The digest of what was loaded: the checkpoint, and a vocabulary from elsewhere."""
        vocabulary = self.stages.foreign_vocabulary
        if vocabulary is None:
            return self.checkpoint.digest
        both = json.dumps([self.checkpoint.digest, sorted(read_vocab(vocabulary).items())])
        return hashlib.sha256(both.encode()).hexdigest()

    def _identify(self, request: SynthesisRequest, seed: int, digests: Mapping[str, str]) -> str:
        """Return the id of the clip that this request and seed give."""
        return generation_id(
            request,
            seed,
            model_digest=self.model_digest,
            voice_digests=digests,
            precision=self.precision,
            device_class=self.stages.device_class,
            watermark=None if self.watermark is None else self.watermark.identity,
        )

    def manifest(self, clip: Clip) -> dict[str, Any]:
        """Return what is needed to make a clip again, and what it cost, as plain JSON types."""
        return manifest(
            clip,
            model=self.name,
            model_digest=self.model_digest,
            precision=self.precision,
            device_class=self.stages.device_class,
            watermark=None if self.watermark is None else self.watermark.name,
        )

    def voice(self, voice: Voice) -> HistoryPrompt:
        """Find and check a voice preset.

        Raises:
            VoiceNotFound: no preset of this name, no such file.
            InvalidVoice: its arrays do not fit this model.
        """
        return read_voice(voice, spec=self.spec, voices=self.voices)

    def _request(
        self, text: str | None, voice: Voice | None, seed: int | None, fields: Mapping[str, Any]
    ) -> tuple[SynthesisRequest, dict[str, HistoryPrompt]]:
        """Check the request; resolve its voices, named or given as arrays, by name."""
        known: dict[str, HistoryPrompt] = {}
        if voice is not None and not isinstance(voice, str):
            prompt = self.voice(voice)
            voice = f"sha256:{voice_digest(prompt)}"
            known[voice] = prompt
        request = SynthesisRequest.parse({"text": text, "voice": voice, "seed": seed, **fields})
        for turn in request.all_turns:
            if turn.voice is not None and turn.voice not in known:
                known[turn.voice] = self.voice(turn.voice)
        return request, known

    # ── one stage by itself ──────────────────────────────────────────────────────────────────────
    def text_to_semantic(
        self, text: str, *, voice: Voice | None = None, seed: int | None = None, **settings: Any
    ) -> Int64:
        """Return int64 [n], n <= 768, each 0…9999; settings as in `SemanticSettings`."""
        history = None if voice is None else self.voice(voice)
        request = SynthesisRequest.parse({"text": text, "seed": seed, "semantic": settings})
        tokens = self.stages.text(text)
        call = self.stages.semantic(tokens, history, request.semantic, _call(seed))
        return self._loop.run(call)[0].ids

    def semantic_to_coarse(
        self,
        semantic: NDArray[Any],
        *,
        voice: Voice | None = None,
        seed: int | None = None,
        **settings: Any,
    ) -> Int32:
        """Return int32 [2, F], F = floor(n * 75 / 49.9); settings as in `CoarseSettings`.

        Raises:
            InvalidRequest: no tokens, or ids that the model does not know.
        """
        history = None if voice is None else self.voice(voice)
        checked: CoarseSettings = _settings(CoarseSettings, "coarse", settings, seed)
        ids = _integers(semantic, "semantic", 1, self.spec.semantic.vocab_size).astype(np.int64)
        call = self.stages.coarse(SemanticTokens(ids), history, checked, _call(seed))
        return self._loop.run(call)[0].codes

    def coarse_to_fine(
        self,
        coarse: NDArray[Any],
        *,
        voice: Voice | None = None,
        seed: int | None = None,
        **settings: Any,
    ) -> Int32:
        """Return int32 [8, F] for coarse [1…7, F]; settings as in `FineSettings`.

        Raises:
            InvalidRequest: a wrong shape, or codes that the model does not know.
        """
        history = None if voice is None else self.voice(voice)
        checked: FineSettings = _settings(FineSettings, "fine", settings, seed)
        codes = _integers(coarse, "coarse", 2, self.spec.codebook_size).astype(np.int32)
        call = self.stages.fine(CoarseCodes(codes), history, checked, _call(seed))
        return self._loop.run(call)[0].codes

    def decode(self, fine: NDArray[Any]) -> Float32:
        """Return float32 [320 F] for fine [1…8, F].

        Raises:
            InvalidRequest: a wrong shape, or codes that the codec does not know.
        """
        codes = _integers(fine, "fine", 2, self.spec.codebook_size).astype(np.int32)
        most = self.spec.fine.num_codebooks
        if not 1 <= len(codes) <= most:
            raise InvalidRequest(f"fine has {len(codes)} codebooks; the codec takes 1…{most}.")
        return self._loop.run(self.stages.codec(FineCodes(codes), _call(0)))[0].samples

    # ── end ──────────────────────────────────────────────────────────────────────────────────────
    def close(self) -> None:
        """Stop the engines; requests in flight get EngineFailed, as do later ones."""
        self.stages.close()
        self._loop.close()

    def __enter__(self) -> Bark:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _call(seed: int | None) -> Call:
    return Call(secrets.randbelow(2**32) if seed is None else seed)


def _settings(kind: type[Any], name: str, fields: Mapping[str, Any], seed: int | None) -> Any:
    """Check one stage's settings and seed with the request's own rules."""
    request = SynthesisRequest.parse({"text": "-", "seed": seed, name: dict(fields)})
    settings = getattr(request, name)
    assert isinstance(settings, kind)
    return settings


def _integers(values: NDArray[Any], name: str, ndim: int, stop: int) -> NDArray[Any]:
    """Check an array of ids that came from outside."""
    array = np.asarray(values)
    if array.ndim != ndim or not np.issubdtype(array.dtype, np.integer):
        raise InvalidRequest(
            f"{name} must be an integer array with {ndim} axes, not {array.dtype} "
            f"{list(array.shape)}"
        )
    if array.size:
        try:
            check_range(array, name, stop)
        except InvalidVoice as error:
            raise InvalidRequest(error.message) from None
    return array
