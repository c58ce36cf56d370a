"""A voice preset as a file: Suno's .npz, or transformers' .npy files, as strangers may send them.

No pickles, no surprises in size. Knows no names, no networks and no torch.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InvalidRequest, InvalidVoice, StoreUnavailable, VoiceNotFound
from pipeline.file_formats import pack_arrays
from pipeline.payloads import HistoryPrompt
from pipeline.store.local import replace_file

# Suno's largest preset has 98 KB; an hour of speech as tokens has 9 MB.
MAX_PRESET_BYTES: Final = 10_000_000
# What a preset holds, and as what.
ARRAYS: Final[dict[str, type[np.signedinteger[Any]]]] = {
    "semantic_prompt": np.int64,
    "coarse_prompt": np.int32,
    "fine_prompt": np.int32,
}


def voice_from_bytes(data: bytes) -> HistoryPrompt:
    """Read an .npz from a file or an upload, whoever made it.

    Returns:
        Arrays of the right types. `HistoryPrompt.checked` says if a model can use them.

    Raises:
        InvalidVoice: not an .npz, broken, too large, or without the three arrays of numbers.
    """
    if len(data) > MAX_PRESET_BYTES:
        raise InvalidVoice(f"the voice preset is larger than {MAX_PRESET_BYTES:,} bytes")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename: info for info in archive.infolist()}
            wanted = {key: members.get(f"{key}.npy") for key in ARRAYS}
            size = sum(info.file_size for info in wanted.values() if info is not None)
            if size > MAX_PRESET_BYTES:
                raise InvalidVoice(f"the voice preset unpacks to {size:,} bytes: too large")
            # A member never yields more than the size it states, however it was compressed.
            arrays = {
                key: parse_npy(archive.read(info), key)
                for key, info in wanted.items()
                if info is not None
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        raise InvalidVoice(
            f"the voice preset is no .npz file, or a damaged one: {error}"
        ) from error
    # odd compression; a password; headers that promise more than there is memory
    except (NotImplementedError, RuntimeError, lzma.LZMAError, OverflowError, MemoryError) as error:
        raise InvalidVoice(f"the voice preset can not be unpacked: {error}") from error
    return prompt_of(arrays)


def save_voice(prompt: HistoryPrompt, path: str | Path) -> None:
    """Write a preset as Suno's .npz; equal prompts give equal bytes.

    Raises:
        InvalidRequest: the path does not end in .npz.
        StoreUnavailable: it can not be written; nothing was changed.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise InvalidRequest(f"{path.name!r} must end in .npz")
    replace_file(path, pack_arrays(prompt.as_mapping()))


def voice_digest(prompt: HistoryPrompt) -> str:
    """Return the sha256 of the arrays: the same on every machine, however they were stored."""
    digest = hashlib.sha256()
    for name, array in prompt.as_mapping().items():
        canonical = array.astype(np.dtype(ARRAYS[name]).newbyteorder("<"))
        digest.update(f"{name}:{canonical.dtype.str}:{list(canonical.shape)};".encode())
        digest.update(canonical.tobytes())
    return digest.hexdigest()


def read_preset_file(path: Path) -> bytes:
    """Read a file that is no larger than a preset can be.

    Raises:
        VoiceNotFound, StoreUnavailable.
        InvalidVoice: it is larger than `MAX_PRESET_BYTES`.
    """
    try:
        if not path.is_file():
            raise VoiceNotFound(f"there is no voice preset {path}")
        with path.open("rb") as file:
            data = file.read(MAX_PRESET_BYTES + 1)
    except (OSError, ValueError) as error:
        raise StoreUnavailable(f"can not read {str(path)!r}: {error}") from error
    if len(data) > MAX_PRESET_BYTES:
        raise InvalidVoice(f"{path} is larger than {MAX_PRESET_BYTES:,} bytes")
    return data


def parse_npy(data: bytes, name: str) -> NDArray[Any]:
    """Read one array of numbers.

    Raises:
        InvalidVoice: no .npy, cut off, or of Python objects.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read_header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read_header(file)
        if dtype.hasobject:
            raise InvalidVoice(f"{name} holds Python objects instead of numbers")
        # Before anything is allocated: a header may promise terabytes.
        if math.prod(shape) * dtype.itemsize != len(data) - file.tell():
            raise InvalidVoice(f"{name} is cut off: its header promises {list(shape)} {dtype}")
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, TypeError, EOFError, SyntaxError, OverflowError, MemoryError) as error:
        raise InvalidVoice(f"{name} is no array: {error}") from error


def prompt_of(arrays: Mapping[str, Any]) -> HistoryPrompt:
    """Return the three arrays under Suno's names as int64 and int32, however they were stored.

    Raises:
        InvalidVoice: one is missing, or holds anything but whole numbers of 32 bits.
    """
    if missing := [key for key in ARRAYS if key not in arrays]:
        raise InvalidVoice(
            f"the voice preset has no {', '.join(missing)}; it needs {', '.join(ARRAYS)}"
        )
    semantic, coarse, fine = (_to_integers(arrays[key], key) for key in ARRAYS)
    return HistoryPrompt(semantic.astype(np.int64), coarse.astype(np.int32), fine.astype(np.int32))


def _to_integers(values: Any, name: str) -> NDArray[Any]:
    """Return whole numbers that fit 32 bits, however they were stored (Suno itself uses uint16)."""
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:  # rows of unequal length
        raise InvalidVoice(f"{name} is no array: {error}") from error
    if array.dtype.kind not in "iuf":
        raise InvalidVoice(f"{name} must hold integers, not {array.dtype}")
    if array.dtype.kind == "f" and not np.all(np.isfinite(array) & (array == np.trunc(array))):
        raise InvalidVoice(f"{name} must hold whole numbers; some are fractions or NaN")
    if array.size and not -(2**31) <= array.min() <= array.max() < 2**31:
        raise InvalidVoice(f"{name} holds numbers that no model knows: {array.max():.4g}")
    return array
