"""A model's files on disk, opened: its numbers, its tensors by our names, and its digest.

Two layouts are read: transformers' (`hf_layout`) and Suno's (`suno_layout`). Everything that can
be wrong with a checkpoint is found when it is opened; reading a tensor then only reads.
Knows no network: `locate` turns a model's name into a folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch

from pipeline.errors import InvalidCheckpoint
from pipeline.models.agreement import check_agreement
from pipeline.models.digest import digest_of
from pipeline.models.hf_layout import is_hf_layout, read_hf
from pipeline.models.stored_tensors import StoredTensor
from pipeline.models.suno_layout import is_suno_layout, read_suno
from pipeline.models.tensor_shapes import STAGES, Stage
from pipeline.spec import BarkSpec

__all__ = ["STAGES", "Checkpoint", "Stage", "open_checkpoint"]

Layout = Literal["hf", "suno"]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A verified checkpoint. Cheap to make: no weight has been read yet.

    tokenizer_path: vocab.txt (or tokenizer.json) beside the weights, None if there is none.
    voices_path: the folder with voice presets, None if there are none: the one that holds
        transformers' speaker_embeddings_path.json, or Suno's .npz files.
    """

    path: Path
    layout: Layout
    spec: BarkSpec
    tokenizer_path: Path | None
    voices_path: Path | None
    _tensors: Mapping[Stage, Mapping[str, StoredTensor]] = field(repr=False)
    _files: tuple[Path, ...] = field(repr=False)

    def tensor(self, stage: Stage, name: str) -> torch.Tensor:
        """Read one tensor.

        Args:
            name: one of `names(stage)`; weight norm is folded in, tied heads are resolved.

        Returns:
            float32, contiguous, in memory of its own: no part of the file stays mapped.

        Raises:
            InvalidCheckpoint: the file was changed or removed since it was opened, or the tensor
                holds values that are no numbers.
        """
        tensor = self._tensors[stage][name].read()
        # the sum alone tells, and needs no mask as large as the tensor
        if not torch.isfinite(tensor.sum()):
            raise InvalidCheckpoint(f"{self.path}: {stage} {name} holds values that are no numbers")
        return tensor

    def names(self, stage: Stage) -> tuple[str, ...]:
        """Return the stage's tensors, by our names, in the order of the network."""
        return tuple(self._tensors[stage])

    @cached_property
    def digest(self) -> str:
        """sha256 over the files that decide the output: weights, configuration, vocabulary.

        Reads every byte of them once; the result is kept in the user's cache.
        """
        vocabulary = () if self.tokenizer_path is None else (self.tokenizer_path,)
        return digest_of(self.path, (*self._files, *vocabulary))


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a folder in either layout and check all of it, without reading a weight.

    Raises:
        InvalidCheckpoint: names the file, the key and what to do.
    """
    path = Path(path)
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "does not exist"
        raise InvalidCheckpoint(f"{path} {what}: give the folder that holds the model's files")
    layout: Layout
    if is_hf_layout(path):
        layout, (spec, tensors, files) = "hf", read_hf(path)
    elif is_suno_layout(path):
        layout, (spec, tensors, files) = "suno", read_suno(path)
    else:
        raise InvalidCheckpoint(
            f"{path} holds no model: expected config.json with model.safetensors (Hugging Face) or "
            "text_2.pt, coarse_2.pt, fine_2.pt with an EnCodec .th file (Suno)"
        )
    check_agreement(spec, path)
    tokenizer = _tokenizer(path)
    if tokenizer is not None and tokenizer.suffix == ".txt":
        _check_vocabulary(tokenizer, spec)
    return Checkpoint(path, layout, spec, tokenizer, _voices(path), tensors, files)


def _tokenizer(path: Path) -> Path | None:
    choices = (path / name for name in ("vocab.txt", "tokenizer.json"))
    return next((choice for choice in choices if choice.is_file()), None)


def _check_vocabulary(vocabulary: Path, spec: BarkSpec) -> None:
    room = spec.semantic.text_pad_id - spec.semantic.text_offset
    with vocabulary.open("rb") as lines:
        size = sum(1 for line in lines if line.strip())
    if not 0 < size <= room:
        raise InvalidCheckpoint(
            f"{vocabulary} has {size} entries, but this model's text ids leave room for {room}: "
            "it is another model's vocabulary"
        )


def _voices(path: Path) -> Path | None:
    if (path / "speaker_embeddings_path.json").is_file():
        return path
    for folder in (path / "speaker_embeddings", path / "assets" / "prompts", path):
        if next(folder.rglob("*.npz") if folder != path else folder.glob("*.npz"), None):
            return folder
    return None
