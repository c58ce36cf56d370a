"""The two formats of what we keep beside sound: arrays as .npz, records as JSON."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreUnavailable


def pack_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return an .npz; equal arrays give equal bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(
                member, np.asarray(arrays[name], order="C"), allow_pickle=False
            )
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(info, member.getvalue())
    return file.getvalue()


def unpack_arrays(data: bytes, name: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz that we wrote.

    Raises:
        StoreUnavailable: `name` is damaged.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except (ValueError, OSError, EOFError) as error:
        raise StoreUnavailable(f"{name} is damaged: {error}") from error


def pack_json(content: Mapping[str, Any]) -> bytes:
    """Return a JSON object for people to read; equal contents give equal bytes."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=2, sort_keys=True)
    return text.encode() + b"\n"


def unpack_json(data: bytes, name: str) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        StoreUnavailable: `name` is damaged.
    """
    try:
        content = json.loads(data)
    except ValueError as error:
        raise StoreUnavailable(f"{name} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise StoreUnavailable(f"{name} is damaged: no JSON object")
    return content
