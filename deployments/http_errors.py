"""Errors over HTTP: one table, one body.

Looked up along the class's `__mro__`, so that a subclass without a row answers as its parent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from starlette.responses import JSONResponse

from deployments.schemas import ErrorBody, ErrorDetail
from pipeline import errors
from pipeline.errors import BarkError, Overloaded


class Unauthorized(BarkError):
    """No API key, or one that is not known."""

    code = "invalid_api_key"


class TooManyRequests(Overloaded):
    """A key has used up what it may."""

    code = "rate_limit_exceeded"


class BodyTooLarge(BarkError):
    """The request's body is longer than this service reads."""

    code = "body_too_large"


class NotReady(BarkError):
    """A generation that has no sound, yet or at all."""

    code = "generation_not_ready"


class ModelNotFound(BarkError):
    """No model of this name is loaded."""

    code = "model_not_found"


# class → status, OpenAI's type
_TABLE: dict[type[BarkError], tuple[int, str]] = {
    Unauthorized: (401, "authentication_error"),
    ModelNotFound: (404, "invalid_request_error"),
    errors.VoiceNotFound: (404, "invalid_request_error"),
    errors.GenerationNotFound: (404, "invalid_request_error"),
    NotReady: (409, "invalid_request_error"),
    BodyTooLarge: (413, "invalid_request_error"),
    errors.InvalidRequest: (422, "invalid_request_error"),
    TooManyRequests: (429, "rate_limit_error"),
    errors.Cancelled: (499, "cancelled"),
    errors.EngineFailed: (500, "server_error"),
    errors.Overloaded: (503, "overloaded_error"),
    errors.StoreUnavailable: (503, "server_error"),
    errors.ModelChanged: (503, "server_error"),
    errors.DeadlineExceeded: (504, "timeout_error"),
    BarkError: (500, "server_error"),
}


def check_model(name: str, known: Sequence[str]) -> None:
    """Refuse a model that is not loaded.

    Raises:
        ModelNotFound: says which are.
    """
    if name not in known:
        raise ModelNotFound(f"there is no model {name[:100]!r}; loaded: {', '.join(known)}")


def status_of(error: BarkError) -> int:
    return _row(error)[0]


def error_response(error: BarkError, request_id: str) -> JSONResponse:
    """Return the answer to a request that failed before its first byte."""
    status, _ = _row(error)
    headers: dict[str, str] = {}
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(error, request_id), status, headers)


def error_body(error: BarkError, request_id: str) -> Mapping[str, object]:
    """Return the envelope, as an event of a stream that broke off holds it too."""
    detail = ErrorDetail(
        message=error.message, type=_row(error)[1], code=error.code, request_id=request_id
    )
    return ErrorBody(error=detail).model_dump()


def _row(error: BarkError) -> tuple[int, str]:
    return next(_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE)
