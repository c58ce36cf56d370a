"""Around every request: its id, a bound on its body, its count. Plain ASGI: streams stay so."""

from __future__ import annotations

import logging
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments import metrics
from deployments.http_errors import BodyTooLarge, error_response
from pipeline.errors import Cancelled

log = logging.getLogger(__name__)

_SOUND_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


def request_id(request: Request) -> str:
    """Return the id of the request that is being answered."""
    return str(request.scope.get("bark.request_id", ""))


def told(request: Request, code: str) -> None:
    """Let a request be counted under the code of the error that it is answered with."""
    request.scope["bark.code"] = code


class RequestCount:
    """Count every request under its route and the code that it ended with."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        ended: BaseException | None = None
        try:
            await self._app(scope, receive, send)
        except BaseException as error:
            ended = error
            raise
        finally:
            # a path that is no route's may be anything
            route = getattr(scope.get("route"), "path", "none")
            code = scope.get("bark.code") or metrics.code_of(ended)
            metrics.REQUESTS.add(route=route, code=code)


class RequestEnvelope:
    """Echo `X-Request-Id`, or give one; refuse bodies that are too long, however they are sent.

    A client that leaves before all is sent has cancelled its request, however we hear of it.

    echoes: False where a proxy before us writes the header into the answer already.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int, echoes: bool) -> None:
        self._app, self._max, self._echoes = app, max_body_bytes, echoes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        number = given if _SOUND_ID.fullmatch(given) else uuid.uuid4().hex
        scope["bark.request_id"] = number
        is_answered = False

        async def labelled(message: Message) -> None:
            nonlocal is_answered
            if message["type"] == "http.response.body" and not message.get("more_body"):
                is_answered = True
            if self._echoes and message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = number
            await send(message)

        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._max:
            await self._refuse(number, scope, receive, labelled)
            return
        size = 0  # of a body that does not state its length

        async def heard() -> Message:
            try:
                return await receive()
            except Exception as error:  # Serve's cancelled call, where a client left a stream
                log.info("no more is heard of a client: %r", error, extra={"request_id": number})
                return {"type": "http.disconnect"}

        async def bounded() -> Message:
            nonlocal size
            message = await heard()
            if message["type"] == "http.disconnect" and not is_answered:
                scope.setdefault("bark.code", Cancelled.code)
            size += len(message.get("body", b""))
            if size > self._max:
                # the one class that FastAPI lets through while it reads a body
                raise HTTPException(413, f"the body is longer than {self._max:,} bytes")
            return message

        await self._app(scope, bounded, labelled)

    async def _refuse(self, number: str, scope: Scope, receive: Receive, send: Send) -> None:
        error = BodyTooLarge(f"the body is longer than {self._max:,} bytes")
        scope["bark.code"] = error.code
        await error_response(error, number)(scope, receive, send)
