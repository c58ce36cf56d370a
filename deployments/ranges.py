"""Stored sound over HTTP: whole or in part, so that a browser can seek.

Source: RFC 9110, sections 13 (conditions) and 14 (ranges). One range a request; of several the
whole is sent, which the RFC allows.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from typing import Final

from starlette.responses import Response, StreamingResponse

from deployments.store_access import StoreAccess
from pipeline.errors import GenerationNotFound

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_CHUNK_BYTES: Final = 1 << 20


async def send(
    access: StoreAccess, key: str, *, sha256: str, media_type: str, given: Mapping[str, str]
) -> Response:
    """Answer with an object of the store.

    Args:
        sha256: of its bytes, which never change: the entity tag.
        given: the request's headers.

    Raises:
        GenerationNotFound: the object is gone.
        StoreUnavailable.
    """
    tag = f'"{sha256}"'
    headers = {"Accept-Ranges": "bytes", "ETag": tag, "Cache-Control": "private, max-age=3600"}
    if tag in given.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    size = await access.run(access.store.size, key)
    if size is None:
        raise GenerationNotFound("the sound of this generation was removed; make it again")
    start, stop, status = 0, size, 200
    if given.get("if-range", tag) == tag and "range" in given:
        found = parse_range(given["range"], size)
        if found is not None:
            (start, stop), status = found, 206
            if start >= stop:
                headers["Content-Range"] = f"bytes */{size}"
                return Response(status_code=416, headers=headers)
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    headers["Content-Length"] = str(stop - start)
    # what goes wrong with the first chunk is still told with a status
    first = await _read(access, key, start, min(stop, start + _CHUNK_BYTES))

    async def chunks() -> AsyncIterator[bytes]:
        yield first
        for place in range(start + _CHUNK_BYTES, stop, _CHUNK_BYTES):
            yield await _read(access, key, place, min(stop, place + _CHUNK_BYTES))

    return StreamingResponse(chunks(), status, headers, media_type)


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """Return the first byte and the one after the last, not after it if there are none.

    None where the header asks for no range that we know: the whole is sent.
    """
    found = _RANGE.fullmatch(header.strip())
    if found is None or found[1] == found[2] == "":
        return None
    if found[1] == "":
        start, stop = max(0, size - int(found[2])), size
    else:
        start = int(found[1])
        stop = min(size, int(found[2]) + 1) if found[2] else size
        if found[2] and int(found[2]) < start:
            return None
    return start, stop


async def _read(access: StoreAccess, key: str, start: int, stop: int) -> bytes:
    data = b"" if start == stop else await access.run(access.store.read, key, start, stop)
    if data is None or len(data) != stop - start:
        raise GenerationNotFound("the sound of this generation was removed; make it again")
    return data
