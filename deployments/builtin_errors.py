"""Errors on their way between processes: ours as builtins, since callers may not have our classes.

The message begins with the stable code, `voice_not_found: There is no voice…`, for people and for
programs; `from_builtin` turns it back. Source of the need: Ray unpickles a custom exception in
the caller, which fails without this package.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from pipeline import errors
from pipeline.errors import BarkError, Overloaded

_P = ParamSpec("_P")
_T = TypeVar("_T")

_CLASSES: dict[str, type[BarkError]] = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, BarkError) and kind is not BarkError
}
# What a caller without our classes can tell apart; anything else is a RuntimeError.
_BUILTINS: tuple[tuple[type[BarkError], type[Exception]], ...] = (
    (errors.InvalidRequest, ValueError),
    (errors.VoiceNotFound, LookupError),
    (errors.DeadlineExceeded, TimeoutError),
)
_CODED = re.compile(r"([a-z_]+)(?:\[([\d.]+)\])?: (.*)", re.DOTALL)


def to_builtin(error: BarkError) -> Exception:
    """Return the builtin that stands for an error."""
    kind = next((builtin for ours, builtin in _BUILTINS if isinstance(error, ours)), RuntimeError)
    wait = f"[{error.retry_after_s:g}]" if isinstance(error, Overloaded) else ""
    return kind(f"{error.code}{wait}: {error.message}")


def from_builtin(error: BaseException) -> BarkError | None:
    """Return our error that a builtin stands for; None if it stands for none."""
    if isinstance(error, BarkError):
        return error
    # Ray's own wrapper keeps the original beside a traceback of the other process.
    cause = getattr(error, "cause", None)
    text = str(cause if isinstance(cause, BaseException) else error)
    found = _CODED.fullmatch(text)
    kind = _CLASSES.get(found[1]) if found else None
    if found is None or kind is None:
        return None
    return Overloaded(found[3], float(found[2] or 1.0)) if kind is Overloaded else kind(found[3])


def raises_builtins(method: Callable[_P, Awaitable[_T]]) -> Callable[_P, Awaitable[_T]]:
    """Make a coroutine method raise builtins in place of our errors."""

    @wraps(method)
    async def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        async with builtins_raised():
            return await method(*args, **kwargs)

    return wrapped


@asynccontextmanager
async def builtins_raised() -> AsyncIterator[Any]:
    """Raise builtins in place of our errors."""
    try:
        yield
    except BarkError as error:
        raise to_builtin(error) from None
