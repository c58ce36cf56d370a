"""`/v1/audio/voices`: presets listed, shown, uploaded, made of a generation, removed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Path, UploadFile
from starlette.responses import Response

from deployments.access import Caller
from deployments.schemas import VoiceCard, VoiceList
from deployments.service import DEFAULT_VOICE, Service
from pipeline.errors import GenerationNotFound, InvalidRequest, InvalidVoice, VoiceNotFound
from pipeline.payloads import HistoryPrompt
from pipeline.voice_files import MAX_PRESET_BYTES, voice_digest, voice_from_bytes
from pipeline.voice_records import is_own, language_of, parents_of, suno_digests, voice_record
from pipeline.voices import read_voice

Name = Annotated[str, Path(max_length=200)]
log = logging.getLogger(__name__)


class StoredVoices:
    """What the routes do; knows nothing of who may call them."""

    def __init__(self, service: Service) -> None:
        self._service, self._access = service, service.store

    async def list(self) -> list[VoiceCard]:
        """Describe every preset that may be named."""
        library = self._service.voices
        names = await self._access.run(library.names)
        records = await self._records()
        found = await asyncio.gather(*(self._listed(name, records.get(name)) for name in names))
        return [card for card in found if card is not None]

    async def _listed(self, name: str, record: dict[str, Any] | None) -> VoiceCard | None:
        """Describe a preset; one that is damaged hides no other."""
        try:
            return await self._card(name, record)
        except InvalidVoice as error:
            log.warning("voice %s is not listed: %s", name, error.message)
            return None

    async def show(self, name: str) -> VoiceCard:
        """Describe one, with its length."""
        prompt = await self._service.history(name, {})
        record = await self._record(name)
        card = await self._card(name, record)
        seconds = prompt.fine.shape[1] / self._service.stages.spec.codec.frame_rate_hz
        told = {"digest": voice_digest(prompt), "seconds": round(seconds, 2)}
        return card.model_copy(update=told)

    async def add(
        self,
        name: str,
        data: bytes | None,
        generation_id: str | None,
        consent: str | None,
        language: str | None,
    ) -> VoiceCard:
        """Keep a preset, from an .npz or from a generation.

        Raises:
            InvalidRequest, InvalidVoice, GenerationNotFound, StoreUnavailable.
        """
        if (data is None) == (generation_id is None):
            raise InvalidRequest("give either a file or a generation_id")
        if name in self._service.config.voices.aliases or name == DEFAULT_VOICE:
            raise InvalidRequest(f"{name!r} is another name of a voice here; choose another")
        parents = None
        if data is not None:
            prompt = await asyncio.to_thread(voice_from_bytes, data)
        else:
            prompt = await self._of_generation(str(generation_id))
            facts = await self._access.run(
                self._access.generations.load_manifest, str(generation_id)
            )
            parents = await self._access.run(
                parents_of, facts, self._access.voices, self._is_models_own
            )
        prompt = prompt.checked(self._service.stages.spec)
        record = voice_record(
            prompt,
            name,
            generation_id=generation_id,
            parents=parents,
            consent=consent,
            language=language,
        )
        if await self._access.run(self._is_models_own, name):
            raise InvalidRequest(f"the model itself has a voice {name!r}; choose another name")
        await self._access.run(self._access.voices.add, name, prompt, record)
        return await self.show(name)

    async def remove(self, name: str) -> None:
        """Remove a preset of the store.

        Raises:
            VoiceNotFound: there is none; the model's own can not be removed.
        """
        if not await self._access.run(self._access.voices.remove, name):
            raise VoiceNotFound(f"the store holds no voice {name!r}")

    def _is_models_own(self, name: str) -> bool:
        return is_own(name, self._service.voices, self._access.voices)

    async def _of_generation(self, generation_id: str) -> HistoryPrompt:
        made = await self._access.run(self._access.generations.load_tokens, generation_id)
        if made is None:
            raise GenerationNotFound(f"the store holds no generation {generation_id[:100]!r}")
        return read_voice(made, spec=self._service.stages.spec, voices=None, allow_paths=False)

    async def _records(self) -> dict[str, dict[str, Any]]:
        names = await self._access.run(self._access.voices.list)
        found = await asyncio.gather(
            *(self._record(name) for name in names), return_exceptions=True
        )
        return {
            n: record for n, record in zip(names, found, strict=True) if isinstance(record, dict)
        }

    async def _record(self, name: str) -> dict[str, Any] | None:
        return await self._access.run(self._access.voices.show, name)

    async def _card(self, name: str, record: dict[str, Any] | None) -> VoiceCard:
        if record is not None:
            told = {k: record.get(k) for k in ("digest", "language", "consent")}
            return VoiceCard(name=name, source=str(record.get("source", "unknown")), **told)
        digest = suno_digests().get(name)  # not fetched for being listed
        if await asyncio.to_thread(self._service.voices.is_at_hand, name):
            digest = voice_digest(await asyncio.to_thread(self._service.voices.get, name))
        return VoiceCard(name=name, source="model", digest=digest, language=language_of(name))


def add_voice_routes(v1: APIRouter, voices: StoredVoices, caller: Callable[..., Caller]) -> None:
    """Add the routes to a router.

    Args:
        caller: the dependency that says who calls.
    """
    known = [Depends(caller)]

    @v1.get("/audio/voices", tags=["voices"], dependencies=known)
    async def listed() -> VoiceList:
        """List the voice presets of the model and of the store."""
        return VoiceList(data=await voices.list())

    @v1.post("/audio/voices", tags=["voices"], dependencies=known, status_code=201)
    async def add(
        name: Annotated[str, Form(max_length=200)],
        file: Annotated[UploadFile | None, File(description="an .npz with the arrays")] = None,
        generation_id: Annotated[str | None, Form(max_length=200)] = None,
        consent: Annotated[
            str | None,
            Form(max_length=2000, description="whose voice it is, and that they agree"),
        ] = None,
        language: Annotated[str | None, Form(max_length=20)] = None,
    ) -> VoiceCard:
        """Keep a voice preset: an .npz, or what a generation in the store said.

        A preset that was made neither here nor by Suno needs a word on consent.
        """
        data = None if file is None else await file.read(MAX_PRESET_BYTES + 1)
        return await voices.add(name, data, generation_id, consent, language)

    @v1.get("/audio/voices/{name:path}", tags=["voices"], dependencies=known)
    async def show(name: Name) -> VoiceCard:
        """Describe one voice preset."""
        return await voices.show(name)

    @v1.delete(
        "/audio/voices/{name:path}",
        tags=["voices"],
        dependencies=known,
        status_code=204,
        response_class=Response,
    )
    async def remove(name: Name) -> None:
        """Remove a voice preset from the store; the model's own stay."""
        await voices.remove(name)
