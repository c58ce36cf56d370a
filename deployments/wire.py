"""What crosses between processes: dicts of numpy arrays, bytes and builtins, nothing else.

The same form for the ingress and for callers from other jobs, who need no class of ours. Every
call of a stage is one dict:

| key | |
|---|---|
| `text`, `semantic`, `coarse`, `fine` | what it works on: str, int64 [n], int32 [2, F] or [8, F] |
| `voice` | a preset's name, a mapping of the three arrays, or None |
| `seed`, `segment` | which random numbers are drawn; 0 where not given |
| `settings` | of this stage, as in `pipeline.request` |
| `deadline_unix_s` | when nobody waits for the result any longer |
| `model_digest` | the model that the tokens belong to; None: any |
| `priority` | `low`: it may wait for all others; None: it may not |
| `trace` | W3C trace context: `{"traceparent": …, "tracestate": …}`, or None |
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from pipeline.errors import InvalidRequest
from pipeline.payloads import HistoryPrompt, StageReport
from pipeline.request import SEED_STOP
from pipeline.stages.decoding import Call
from pipeline.telemetry import carrier

Wire = dict[str, Any]
LOW = "low"

_KEYS = {
    *("voice", "seed", "segment", "settings", "deadline_unix_s", "model_digest", "priority"),
    "trace",
}


def pack_call(
    payload: Mapping[str, Any],
    history: HistoryPrompt | None,
    settings: BaseModel | None,
    call: Call,
    model_digest: str | None,
) -> Wire:
    """Return the dict of one call."""
    deadline = None if call.deadline_s is None else time.time() + call.deadline_s - time.monotonic()
    return {
        **payload,
        "voice": None if history is None else dict(history.as_mapping()),
        "seed": call.seed,
        "segment": call.segment,
        "settings": None if settings is None else settings.model_dump(),
        "deadline_unix_s": deadline,
        "model_digest": model_digest,
        "priority": LOW if call.is_low else None,
        "trace": carrier(),
    }


def check_keys(request: Mapping[str, Any], *payload: str) -> None:
    """Refuse what no stage knows; a typo must not pass for a default.

    Raises:
        InvalidRequest: no mapping, unknown keys, or none of the payload's.
    """
    if not isinstance(request, Mapping):
        raise InvalidRequest(f"the request must be a dict, not {type(request).__name__}")
    if unknown := set(request) - _KEYS - set(payload):
        known = ", ".join(sorted({*_KEYS, *payload}))
        raise InvalidRequest(f"unknown keys {', '.join(sorted(unknown))}; known: {known}")
    if payload[0] not in request:
        raise InvalidRequest(f"the request needs {payload[0]!r}")


def unpack_call(request: Mapping[str, Any]) -> Call:
    """Return seed, segment, deadline and priority of a call.

    Raises:
        InvalidRequest: no such numbers.
    """
    numbers = {}
    for key in ("seed", "segment"):
        value = request.get(key) or 0
        if not isinstance(value, (int, np.integer)) or not 0 <= value < SEED_STOP:
            raise InvalidRequest(f"{key} must be an integer of 0…2**63 - 1, not {value!r}")
        numbers[key] = int(value)
    unix_s = request.get("deadline_unix_s")
    deadline = None if unix_s is None else time.monotonic() + float(unix_s) - time.time()
    return Call(numbers["seed"], numbers["segment"], deadline, is_low=is_low(request))


def is_low(request: Mapping[str, Any]) -> bool:
    """Say whether a request may wait for all others.

    Raises:
        InvalidRequest: no such priority.
    """
    given = request.get("priority")
    if given not in (None, LOW):
        raise InvalidRequest(f"priority is {LOW!r}, or is left out; not {given!r}")
    return given == LOW


def headers_of(request: Mapping[str, Any]) -> dict[str, str]:
    """Return the trace context of a call.

    Raises:
        InvalidRequest: it is no mapping of strings.
    """
    given = request.get("trace")
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(v, str) for v in given.values()):
        raise InvalidRequest("trace must be a dict of strings, such as traceparent")
    return {str(name): value for name, value in given.items()}


def unpack_settings(kind: type[BaseModel], given: Any) -> Any:
    """Return a stage's settings.

    Raises:
        InvalidRequest: says which setting is wrong.
    """
    try:
        return kind.model_validate({} if given is None else dict(given))
    except (ValidationError, TypeError, ValueError) as error:
        raise InvalidRequest(f"settings: {error}") from None


def unpack_integers(value: Any, name: str, ndim: int, stop: int) -> NDArray[np.int64]:
    """Return an array of ids.

    Raises:
        InvalidRequest: not integers, of another rank, or outside [0, stop).
    """
    try:
        array = np.asarray(value)
    except ValueError:  # rows of unequal length
        raise InvalidRequest(f"{name} is no array") from None
    if array.dtype.kind not in "iu" or array.ndim != ndim:
        raise InvalidRequest(
            f"{name} must be integers of {ndim} dimension{'s' * (ndim > 1)}, "
            f"not {array.dtype} {list(array.shape)}"
        )
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < stop:
        raise InvalidRequest(f"{name} holds {array.min()}…{array.max()}; known are 0…{stop - 1}")
    return array.astype(np.int64)


def pack_report(report: StageReport) -> Wire:
    return asdict(report)


def unpack_report(fields: Mapping[str, Any]) -> StageReport:
    return StageReport(**fields)
