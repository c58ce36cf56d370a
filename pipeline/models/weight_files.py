"""Files that hold tensors: safetensors, and PyTorch's pickles read without running them.

Opening reads names and shapes alone; `read` copies one tensor. Safetensors are never mapped, a
pickle for some 32 MiB only: a process that loads tensor by tensor never holds much of the file.
Knows nothing of Bark.
"""

from __future__ import annotations

import json
import os
import pickle
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch.serialization import safe_globals

from pipeline.errors import InvalidCheckpoint

_SAFETENSORS_DTYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
# A mapping of a pickle serves this many bytes. Unpickling the names takes 38 ms in a file of 580
# tensors (24 layers and their optimizer, 2 cores): too long to pay once a tensor.
_MAPPED_BYTES = 32 << 20
_FLOATS = frozenset(_SAFETENSORS_DTYPES.values())


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """What a file says about a tensor. dtype: for people; is_float: whether we can read it."""

    shape: tuple[int, ...]
    dtype: str
    is_float: bool


class WeightFile(Protocol):
    """A file of named tensors."""

    @property
    def path(self) -> Path: ...

    @property
    def headers(self) -> Mapping[str, TensorHeader]: ...

    def read(self, key: str) -> torch.Tensor:
        """Return a copy of a tensor, float32, contiguous, in memory of its own."""
        ...


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """One .safetensors file.

    Tensors are read, not mapped: a mapping would hold each one twice while it is copied.
    """

    path: Path
    headers: Mapping[str, TensorHeader]
    _starts: Mapping[str, int]
    _version: tuple[int, ...]

    @classmethod
    def open(cls, path: Path) -> SafetensorsFile:
        """Read a file's header.

        Raises:
            InvalidCheckpoint: the file is missing, truncated or not safetensors.
        """
        try:
            with safe_open(path, framework="pt", device="cpu"):
                pass  # the library checks the header against the file's length
            with path.open("rb") as file:
                version = _version_of(file)
                size = int.from_bytes(file.read(8), "little")
                entries = json.loads(file.read(size))
        except FileNotFoundError:
            raise InvalidCheckpoint(f"{path} is missing: copy or download it again") from None
        except (SafetensorError, OSError, ValueError) as error:
            raise InvalidCheckpoint(
                f"{path} is truncated or not a safetensors file ({_first_line(error)}): "
                "copy or download it again"
            ) from error
        entries.pop("__metadata__", None)
        headers = {
            key: TensorHeader(
                tuple(entry["shape"]), entry["dtype"], entry["dtype"] in _SAFETENSORS_DTYPES
            )
            for key, entry in entries.items()
        }
        starts = {key: 8 + size + entry["data_offsets"][0] for key, entry in entries.items()}
        return cls(path, headers, starts, version)

    def read(self, key: str) -> torch.Tensor:
        header = self.headers[key]
        value = torch.empty(header.shape, dtype=_SAFETENSORS_DTYPES[header.dtype])
        rest = value.view(-1).view(torch.uint8).numpy().data
        try:
            with self.path.open("rb", buffering=0) as file:
                if _version_of(file) != self._version:
                    raise InvalidCheckpoint(
                        f"{self.path} was changed while the model was loaded: load it again"
                    )
                file.seek(self._starts[key])
                while rest:
                    count = file.readinto(rest)
                    if not count:
                        raise InvalidCheckpoint(f"{self.path} ends within {key}: load it again")
                    rest = rest[count:]
        except OSError as error:
            raise InvalidCheckpoint(f"{self.path} can not be read any more: {error}") from error
        return value.to(torch.float32)


def _version_of(file: IO[bytes]) -> tuple[int, ...]:
    stat = os.fstat(file.fileno())
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


@dataclass(slots=True, eq=False)
class TorchFile:
    """One file of `torch.save`: a state dict, or Suno's dict with the state dict under `model`.

    extras: what else the outer dict holds, tensors excepted (Suno's `model_args`).
    """

    path: Path
    headers: Mapping[str, TensorHeader]
    extras: Mapping[str, Any]
    _mapped: Mapping[str, torch.Tensor] | None = None
    _copied_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, path: Path) -> TorchFile:
        """Read a file's names and shapes.

        Raises:
            InvalidCheckpoint: missing, truncated, not a dict of tensors, or a pickle that names
                anything but tensors and numpy scalars; nothing of such a pickle is run.
        """
        outer = _load(path)
        headers = {
            key: TensorHeader(tuple(value.shape), str(value.dtype), value.dtype in _FLOATS)
            for key, value in _state_dict(outer, path).items()
        }
        extras = {
            key: value
            for key, value in outer.items()
            if isinstance(key, str) and key != "model" and not isinstance(value, torch.Tensor)
        }
        return cls(path, headers, extras)

    def read(self, key: str) -> torch.Tensor:
        with self._lock:
            if self._mapped is None:
                self._mapped, self._copied_bytes = _state_dict(_load(self.path), self.path), 0
            if key not in self._mapped:
                raise InvalidCheckpoint(f"{self.path} lost the key {key} since it was opened")
            stored = self._mapped[key]
            copy = _own_float32(stored)
            self._copied_bytes += stored.nbytes
            if self._copied_bytes >= _MAPPED_BYTES:
                self._mapped = None  # unmaps, and gives the pages back
            return copy


def _state_dict(outer: Mapping[Any, Any], path: Path) -> dict[str, torch.Tensor]:
    inner = outer.get("model", outer)
    if not isinstance(inner, Mapping):
        raise InvalidCheckpoint(f"{path}: `model` is not a dict of tensors")
    return {k: v for k, v in inner.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}


def _load(path: Path) -> Mapping[Any, Any]:
    """Map a file of `torch.save`, or read it whole if it has torch's format before 1.6."""
    try:
        with _loading, safe_globals(_numpy_scalars()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on foreign pickles, which end in an error anyway
            try:
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError as error:
                if "mmap can only be used" not in str(error):
                    raise
                content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InvalidCheckpoint(f"{path} is missing: copy or download the model again") from None
    except pickle.UnpicklingError as error:
        raise InvalidCheckpoint(
            f"{path} holds more than tensors and was not opened, because loading it could run "
            f"code ({_first_line(error)}): get the model from a source you trust, as safetensors "
            "if there is one"
        ) from error
    # A broken file can make torch's reader fail in any of these ways.
    except (RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError,
            AssertionError) as error:  # fmt: skip
        raise InvalidCheckpoint(
            f"{path} is truncated or not a PyTorch file ({_first_line(error)}): "
            "copy or download it again"
        ) from error
    if not isinstance(content, Mapping):
        raise InvalidCheckpoint(f"{path} holds a {type(content).__name__}, not a dict of tensors")
    return content


# torch's allow-list and Python's warning filters are the process's: one thread at a time.
_loading = threading.Lock()


def _numpy_scalars() -> list[Any]:
    """Return what a pickled numpy number needs, under the names of numpy 1 and 2.

    Suno's files hold such numbers beside the weights (`best_val_loss`).
    """
    scalar = np.float64(0).__reduce__()[0]
    return [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        *(type(np.dtype(name)) for name in ("float32", "float64", "int64")),
    ]


def _own_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Copy a tensor out of a mapping. NOTE: `.to` alone keeps a float32 view of the mapping."""
    return tensor.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].strip()[:200]
