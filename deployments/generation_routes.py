"""`/v1/generations`: jobs that outlive every process, and their sound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Request
from starlette.responses import Response

from deployments import metrics
from deployments.access import Access, Caller
from deployments.http_errors import NotReady, check_model
from deployments.job_runner import JobRunner
from deployments.keeping import kept_by
from deployments.ranges import send
from deployments.schemas import (
    AudioFile,
    ErrorBody,
    GenerationCard,
    GenerationError,
    GenerationRequest,
)
from deployments.service import Service
from deployments.webhooks import Webhooks
from pipeline.audio import MEDIA_TYPES
from pipeline.errors import GenerationNotFound
from pipeline.generations import audio_key
from pipeline.job_records import Job, is_job_id
from pipeline.telemetry import carrier, joined

Id = Annotated[str, Path(max_length=200, description="of a job, or a generation's own")]
_SOUND: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the sound",
        "content": {"audio/*": {"schema": {"type": "string", "format": "binary"}}},
    },
    206: {
        "description": "the part that was asked for",
        "content": {"audio/*": {"schema": {"type": "string", "format": "binary"}}},
    },
    304: {"description": "it is the one you have"},
    409: {"model": ErrorBody, "description": "there is no sound, yet or at all"},
    416: {"description": "the sound has no such part"},
}


class Generations:
    """What the routes do; knows nothing of who may call them."""

    def __init__(self, service: Service, webhooks: Webhooks) -> None:
        self._service, self._webhooks = service, webhooks
        self._access, self._jobs = service.store, service.store.jobs
        self.runner = JobRunner(service, service.config.jobs, webhooks, self._told)

    async def submit(
        self,
        body: GenerationRequest,
        owner: str,
        owner_name: str,
        key: str | None,
        headers: Mapping[str, str] | None = None,
    ) -> Job:
        """Check a request and queue it; what is wrong with it is said now.

        headers: W3C trace context of the caller.
        """
        check_model(body.model, self._service.model_names)
        if body.webhook is not None:
            self._webhooks.check(body.webhook)
        fields = body.fields()
        generation = await self._service.start(fields)  # resolves and checks its voices
        canonical = generation.request.canonical(generation.voice_digests)
        form = (body.response_format, body.speed, body.webhook)
        content = self._service.digest(canonical, body.seed, *form)
        if body.seed is None:
            # Not at random: the same request is the same job. Another take has another seed.
            fields["seed"] = int(self._service.digest(canonical)[:8], 16)
        self.runner.check_room()
        job = await self._access.run(
            self._jobs.submit,
            fields,
            owner=owner,
            owner_name=owner_name,
            content=content,
            audio_format=body.response_format,
            speed=body.speed,
            key=key,
            hook_url=body.webhook,
            trace=carrier(joined(headers)),
            is_whole=self._has_sound,
        )
        metrics.CACHE_LOOKUPS.add(cache="job", result="hit" if job.is_ended else "miss")
        if job.has_work:
            self.runner.wake()
        return job

    async def card(self, generation_id: str, owner: str) -> GenerationCard:
        """Describe a job, or a generation by its own id."""
        if is_job_id(generation_id):
            return self.describe(await self._access.run(self._jobs.load, generation_id, owner))
        facts = await self._manifest(generation_id)
        return GenerationCard(
            id=generation_id,
            status="succeeded",
            generation_id=generation_id,
            audio=self._file(generation_id, _stored(facts)),
            **{k: facts[k] for k in ("seed", "finish_reason", "duration_s", "unknown_words")},
            timings=facts["timings"],
        )

    async def remove(self, job_id: str, owner: str) -> GenerationCard:
        """Cancel a job that has not ended; forget one that has.

        Its sound goes with it, unless others have the same. A generation's own id stands for
        what this caller kept with `"store": true`.
        """
        if not is_job_id(job_id):
            card = await self.card(job_id, owner)
            release = self._access.generations.release
            if not await self._access.run(release, job_id, kept_by(owner)):
                raise GenerationNotFound(f"generation {job_id!r} was not kept by you, or not alone")
            return card
        job = await self._access.run(self._jobs.load, job_id, owner)
        if not job.is_ended:
            job = await self._access.run(self._jobs.cancel, job_id, owner)
            return self.describe(job)
        if job.generation_id is not None:
            # the sound first: whoever is interrupted here can ask again
            release = self._access.generations.release
            await self._access.run(release, job.generation_id, job.id)
        await self._access.run(self._jobs.forget, job_id)
        return self.describe(job)

    async def sound(self, generation_id: str, owner: str, request: Request) -> Response:
        """Send the sound, whole or in part."""
        if is_job_id(generation_id):
            job = await self._access.run(self._jobs.load, generation_id, owner)
            if job.result is None:
                raise NotReady(f"this generation has no sound: it is {job.status}")
            file = job.result["audio"]
        else:
            file = _stored(await self._manifest(generation_id))
        return await send(
            self._access,
            file["key"],
            sha256=file["sha256"],
            media_type=file["media_type"],
            given=request.headers,
        )

    def describe(self, job: Job) -> GenerationCard:
        """Return a job as its caller sees it."""
        told = job.result or {}
        file = None if job.result is None else self._file(job.id, told["audio"])
        shown = ("seed", "finish_reason", "duration_s", "unknown_words", "timings")
        return GenerationCard(
            id=job.id,
            status=job.status,
            created_at=job.created_unix_s,
            ended_at=job.ended_unix_s,
            progress=job.progress,
            attempts=job.attempts,
            generation_id=job.generation_id,
            audio=file,
            error=None if job.error is None else GenerationError(**job.error),
            **{"seed": job.request.get("seed"), **{k: told[k] for k in shown if k in told}},
        )

    def _has_sound(self, job: Job) -> bool:
        return (
            job.result is not None
            and self._access.store.size(job.result["audio"]["key"]) is not None
        )

    def _told(self, job: Job) -> dict[str, Any]:
        return self.describe(job).model_dump(mode="json")

    def _file(self, shown_id: str, file: dict[str, Any]) -> AudioFile:
        link = self._access.store.link(
            file["key"],
            expires_s=self._service.config.store.link_expires_s,
            media_type=file["media_type"],
            file_name=f"{shown_id}.{file['key'].rpartition('.')[2]}",
        )
        told = {key: file[key] for key in ("sha256", "bytes", "media_type")}
        return AudioFile(url=f"/v1/generations/{shown_id}/audio", link=link, **told)

    async def _manifest(self, generation_id: str) -> dict[str, Any]:
        found = await self._access.run(self._access.generations.load_manifest, generation_id)
        if found is None:
            raise GenerationNotFound(f"there is no generation {generation_id[:100]!r}")
        size = await self._access.run(
            self._access.store.size, audio_key(generation_id, found["format"])
        )
        if size is None:
            raise GenerationNotFound("the sound of this generation was removed; make it again")
        return {**found, "bytes": size}


def add_generation_routes(
    v1: APIRouter, generations: Generations, caller: Callable[..., Caller], access: Access
) -> None:
    """Add the routes to a router.

    Args:
        caller: the dependency that says who calls. access: counts what they ask for.
    """
    known = Depends(caller)

    @v1.post("/generations", status_code=202, tags=["generations"])
    async def submit(
        body: GenerationRequest,
        request: Request,
        response: Response,
        who: Caller = known,
        idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
    ) -> GenerationCard:
        """Queue a generation and answer at once. The same request is the same generation.

        With an `Idempotency-Key`, it is so even after it has failed.
        """
        with access.counted(who):
            job = await generations.submit(body, who.id, who.name, idempotency_key, request.headers)
        response.headers["Location"] = f"/v1/generations/{job.id}"
        return generations.describe(job)

    @v1.get("/generations/{id}", tags=["generations"])
    async def show(id: Id, who: Caller = known) -> GenerationCard:
        """Tell how far a generation is, and what came of it."""
        return await generations.card(id, who.id)

    @v1.delete("/generations/{id}", tags=["generations"])
    async def remove(id: Id, who: Caller = known) -> GenerationCard:
        """Cancel a generation; one that has ended is forgotten, with its sound.

        The sound stays where other jobs have the same.
        """
        return await generations.remove(id, who.id)

    @v1.get(
        "/generations/{id}/audio",
        tags=["generations"],
        response_class=Response,
        responses=_SOUND,
    )
    async def sound(id: Id, request: Request, who: Caller = known) -> Response:
        """Send the sound; `Range` is honoured, so that players can seek."""
        return await generations.sound(id, who.id, request)


def _stored(facts: dict[str, Any]) -> dict[str, Any]:
    """Return what is told of a generation's own file."""
    key = audio_key(facts["id"], facts["format"])
    media_type = MEDIA_TYPES[facts["format"]]
    return {"key": key, "media_type": media_type, **{k: facts[k] for k in ("sha256", "bytes")}}
