"""Where each of our tensors lies in a checkpoint's files, and its assembly from what lies there.

Layouts hand in the keys that a checkpoint has and how ours translate; everything missing, extra
or of another shape is found here, before a weight is read. Knows no configuration.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from pipeline.errors import InvalidCheckpoint
from pipeline.models.tensor_shapes import Shape, Shapes
from pipeline.models.weight_files import TensorHeader, WeightFile


@dataclass(frozen=True, slots=True)
class Located:
    """A tensor as the file names it."""

    file: WeightFile
    key: str

    @property
    def header(self) -> TensorHeader:
        return self.file.headers[self.key]

    def __str__(self) -> str:
        return f"{self.file.path}, key {self.key}"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One of our tensors: a stored one, or weight norm's magnitude and direction."""

    parts: tuple[Located, ...]

    def read(self) -> torch.Tensor:
        """Return it as float32 in memory of its own."""
        values = [part.file.read(part.key) for part in self.parts]
        return values[0] if len(values) == 1 else fold_weight_norm(values[0], values[1])


def fold_weight_norm(magnitude: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Return g * v / |v|, the norm over all but dim 0, as `torch.nn.utils.weight_norm` does."""
    norm: torch.Tensor = torch.linalg.vector_norm(direction.flatten(1), dim=1)
    scale: torch.Tensor = magnitude.flatten() / norm
    return direction * scale.view(-1, *[1] * (direction.dim() - 1))


class KeyTable:
    """A checkpoint's keys, and which of them have been claimed by our tensors."""

    def __init__(self, keys: Mapping[str, Located], source: str) -> None:
        """keys: after prefixes were stripped. source: the file to name when a key is missing."""
        self._keys = keys
        self._source = source
        self._claimed: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def bind(
        self, shapes: Shapes, keys_of: Callable[[str], Iterable[tuple[str, ...]]]
    ) -> dict[str, StoredTensor]:
        """Find every tensor of `shapes`.

        Args:
            keys_of: our name → the keys it may have, in order of preference; two keys are weight
                norm's magnitude and direction.

        Raises:
            InvalidCheckpoint: a key is missing, or a tensor has another shape or no float dtype.
        """
        bound: dict[str, StoredTensor] = {}
        missing: list[str] = []
        for name, shape in shapes.items():
            choices = list(keys_of(name))
            self._claimed.update(key for choice in choices for key in choice)
            found = next((c for c in choices if all(key in self._keys for key in c)), None)
            if found is None:
                missing.append(choices[0][0])
                continue
            parts = tuple(self._keys[key] for key in found)
            if len(parts) == 2:
                _check(parts[0], (shape[0], *[1] * (len(shape) - 1)))
            _check(parts[-1], shape)
            bound[name] = StoredTensor(parts)
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise InvalidCheckpoint(
                f"{self._source} lacks the key {missing[0]}{more}: the file is incomplete, or its "
                "configuration describes another model; copy or download the model again"
            )
        return bound

    def refuse_unknown(self, ignored: re.Pattern[str]) -> None:
        """Raise for keys that are neither claimed nor ignored.

        Raises:
            InvalidCheckpoint: names the first such key and its file.
        """
        unknown = [
            located
            for key, located in self._keys.items()
            if key not in self._claimed
            and not ignored.fullmatch(key)
            and not _is_causal_mask(key, located.header)
        ]
        if unknown:
            more = f" and {len(unknown) - 1} more like it" if len(unknown) > 1 else ""
            raise InvalidCheckpoint(
                f"{unknown[0]}{more}: Bark has no such tensor; this file belongs to another model "
                "or another version of it"
            )


def _is_causal_mask(key: str, header: TensorHeader) -> bool:
    """Tell a stored causal mask [1, 1, n, n] (`….attn.bias`) from a linear layer's bias."""
    return key.endswith(".attn.bias") and len(header.shape) == 4


def _check(located: Located, shape: Shape) -> None:
    header = located.header
    if header.shape != shape:
        raise InvalidCheckpoint(
            f"{located}: found shape {list(header.shape)}, expected {list(shape)} by the "
            "configuration; the weights and the configuration are of two different models"
        )
    if not header.is_float:
        raise InvalidCheckpoint(
            f"{located}: found dtype {header.dtype}, expected float16, bfloat16, float32 or "
            "float64; quantised checkpoints can not be read, use the original one"
        )


def weight_norm_keys(key: str) -> Iterable[tuple[str, ...]]:
    """Yield the ways in which a convolution's `….weight` may be stored, newest first."""
    yield (key,)
    stem = key.removesuffix("weight")
    yield (
        f"{stem}parametrizations.weight.original0",
        f"{stem}parametrizations.weight.original1",
    )
    yield f"{key}_g", f"{key}_v"


def tied_table(name: str) -> str | None:
    """Return the table that a fine head shares its weight with: head i is table i + 1."""
    match = re.fullmatch(r"heads\.(\d+)\.weight", name)
    return f"token_embeddings.{int(match[1]) + 1}.weight" if match else None
