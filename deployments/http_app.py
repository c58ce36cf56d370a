"""The HTTP routes: parse, ask the service, answer. A factory makes them, with Ray or without."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from deployments.access import Access, Caller
from deployments.generation_routes import Generations, add_generation_routes
from deployments.http_errors import check_model, error_response
from deployments.keeping import keep_for
from deployments.middleware import RequestCount, RequestEnvelope, request_id, told
from deployments.schemas import (
    ErrorBody,
    Health,
    ModelCard,
    ModelList,
    SpeechRequest,
)
from deployments.service import Service
from deployments.speech import speak
from deployments.trace_page import HEADERS, missing_page, trace_page
from deployments.voice_routes import StoredVoices, add_voice_routes
from pipeline.audio.label import installed_version
from pipeline.errors import BarkError, EngineFailed, GenerationNotFound, InvalidRequest

log = logging.getLogger(__name__)

_AUDIO = {"content": {"audio/mpeg": {"schema": {"type": "string", "format": "binary"}}}}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": description}
    for status, description in (
        (400, "not HTTP as it should be"),
        (401, "no valid API key"),
        (404, "no such model, voice or route"),
        (405, "a route, but not this method"),
        (413, "the body is too large"),
        (422, "the request can not be carried out as it stands"),
        (429, "too many requests of this key"),
        (503, "the queue is full, or a part is missing; try again later"),
        (504, "the time ran out"),
    )
}


_bearer = HTTPBearer(auto_error=False, description="an API key, where keys are asked for")


def _caller(request: Request) -> Caller:
    access: Access = request.app.state.access
    return access.caller(request.headers.get("authorization"))


Known = Annotated[Caller, Depends(_caller)]


def create_app(
    service: Service,
    generations: Generations,
    access: Access,
    is_ready: Callable[[], Awaitable[None]],
    find_trace: Callable[[str], Awaitable[Mapping[str, Any] | None]],
    *,
    behind_proxy: bool = False,
) -> FastAPI:
    """Return the application.

    Args:
        is_ready: returns when every stage answers, raises a BarkError where one does not.
        find_trace: where the time of a recent request went, whichever replica had it.
        behind_proxy: Serve's proxy is before it, and writes `X-Request-Id` itself.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        generations.runner.start()
        yield

    app = FastAPIOffline(
        redoc_url=None,  # one documentation; ReDoc's page asks its maker's server for a picture
        swagger_ui_parameters={"validatorUrl": None},  # nor does this one ask anybody
        lifespan=lifespan,
        # our own spans begin with the request: FastAPI's would be beside them
        telemetry={"tracing": False, "metrics": False, "logs": False},
        title="bark-serve",
        version=installed_version(),
        summary="Suno's Bark as a service: text in, sound out.",
        responses=_REFUSALS,
    )
    config = service.config
    app.add_middleware(
        RequestEnvelope,
        max_body_bytes=config.admission.max_body_bytes,
        echoes=not behind_proxy,
    )
    if config.access.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.access.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=[
                "Authorization",
                "Content-Type",
                "Idempotency-Key",
                "Range",
                "traceparent",
            ],
            expose_headers=["X-Bark-Id", "X-Bark-Seed", "X-Request-Id", "Server-Timing"],
        )
    app.add_middleware(RequestCount)
    app.state.access = access
    _add_error_handlers(app)

    # documented where it is asked for
    v1 = APIRouter(prefix="/v1", dependencies=[Depends(_bearer)] if access.has_keys else [])

    @v1.post(
        "/audio/speech",
        response_class=Response,
        responses={200: {"description": "audio, or server-sent events", **_AUDIO}},
        tags=["speech"],
    )
    async def speech(body: SpeechRequest, request: Request, who: Known) -> Response:
        """Speak a text. Takes what OpenAI's endpoint takes, and `seed` and settings beside it."""
        check_model(body.model, service.model_names)
        async with AsyncExitStack() as held:
            held.enter_context(access.counted(who))
            generation = await service.start(
                body.fields(),
                is_streamed=True,
                headers=request.headers,
                # before the last byte is sent: who has them all can count on it
                at_end=partial(keep_for, who.id) if body.store else None,
                request_id=request_id(request),
                owner=who.name,
                way="http",
            )
            answer = await speak(generation, body, request_id(request), held)
            if hasattr(answer, "body_iterator"):
                held.pop_all()  # the stream releases what is held when it ends
            return answer

    @v1.get("/models", tags=["models"])
    async def models(_: Known) -> ModelList:
        """List the loaded model, under each of its names."""
        names = service.model_names
        return ModelList(data=[ModelCard(id=n, digest=service.model_digest) for n in names])

    add_voice_routes(v1, StoredVoices(service), _caller)
    add_generation_routes(v1, generations, _caller, access)
    app.include_router(v1)

    @app.get(
        "/traces/{id}",
        tags=["health"],
        response_class=Response,
        responses={200: {"description": "a page", "content": {"text/html": {}}}},
    )
    async def trace(
        id: Annotated[str, Path(max_length=200)], request: Request, _: Known
    ) -> Response:
        """Draw where the time of a recent request went; by X-Request-Id, X-Bark-Id or trace id."""
        record = await find_trace(id)
        if record is not None:
            slots = {"semantic": config.engine.semantic_slots, "coarse": config.engine.coarse_slots}
            return HTMLResponse(trace_page(record, slots), headers=HEADERS)
        if "text/html" in request.headers.get("accept", ""):  # somebody reads it
            return HTMLResponse(missing_page(id), 404, HEADERS)
        raise GenerationNotFound(f"no recent request has the id {id[:100]!r}")

    @app.get("/healthz", tags=["health"])
    async def healthz() -> Health:
        """Answer while this process lives."""
        return Health(status="ok")

    @app.get("/readyz", tags=["health"])
    async def readyz() -> Health:
        """Answer 200 when every stage does, 503 before."""
        await is_ready()
        return Health(status="ok")

    return app


def _add_error_handlers(app: FastAPI) -> None:
    """Answer every error in one form."""

    @app.exception_handler(BarkError)
    async def ours(request: Request, error: BarkError) -> JSONResponse:
        told(request, error.code)
        return error_response(error, request_id(request))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        parts = [
            f"{'.'.join(str(step) for step in item['loc'][1:]) or 'body'}: {item['msg']}"
            for item in error.errors()
        ]
        told(request, InvalidRequest.code)
        return error_response(InvalidRequest("; ".join(parts)), request_id(request))

    @app.exception_handler(HTTPException)
    async def of_starlette(request: Request, error: HTTPException) -> JSONResponse:
        codes = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
        code = codes.get(error.status_code, "bad_request")
        told(request, code)
        detail = {
            "message": str(error.detail),
            "type": "invalid_request_error",
            "code": code,
            "param": None,
            "request_id": request_id(request),
        }
        return JSONResponse({"error": detail}, error.status_code, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        number = secrets.token_hex(4)
        log.error("unforeseen error %s", number, exc_info=error)
        mishap = EngineFailed(f"an error of ours, number {number} in the log")
        return error_response(mishap, request_id(request))
