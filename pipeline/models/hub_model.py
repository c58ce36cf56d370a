"""A model on the Hugging Face hub → its snapshot in Hugging Face's own cache.

The cache, the offline switch, the mirror and the token are the hub library's (HF_HOME,
HF_HUB_CACHE, HF_HUB_OFFLINE, HF_ENDPOINT, HF_TOKEN): a model that transformers has fetched is not
fetched again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from httpx2 import HTTPError
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from pipeline.errors import InvalidCheckpoint, VoiceNotFound

_BERT = "google-bert/bert-base-multilingual-cased"
_SETTINGS = [
    "config.json",
    "generation_config.json",
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "speaker_embeddings_path.json",
]
_PRESETS = ["speaker_embeddings_path.json", "speaker_embeddings/*"]
_SAFETENSORS = ["model.safetensors", "model.safetensors.index.json", "model-*.safetensors"]
# NOTE: only where there is no safetensors. suno/bark also holds Suno's six .pt files, 18 GB.
_PICKLES = ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"]


def fetch_snapshot(
    name: str,
    *,
    revision: str | None = None,
    offline: bool = False,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> Path:
    """Return the folder of a hub model's snapshot, fetching what the cache lacks.

    Raises:
        InvalidCheckpoint: no such model or revision, no access, or neither network nor cache.
    """

    def fetch(patterns: list[str]) -> Path:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                cache_dir=cache_dir,
                local_files_only=offline,
                allow_patterns=[*_SETTINGS, *patterns],
                library_name="bark-serve",
            )
        )

    with _explained(name, revision), _progress_bars(progress):
        folder = fetch(_SAFETENSORS)
        if not any(folder.glob("model*.safetensors")):
            folder = fetch(_PICKLES)
    return folder


def fetch_presets(name: str, *, revision: str | None = None, progress: bool = True) -> Path:
    """Return a folder with all voice presets of a hub model, and no weights.

    Raises:
        InvalidCheckpoint: as for `fetch_snapshot`.
    """
    with _explained(name, revision), _progress_bars(progress):
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=_PRESETS, library_name="bark-serve"
            )
        )


@contextmanager
def _explained(name: str, revision: str | None) -> Iterator[None]:
    at = f"{name} at revision {revision}" if revision else name
    pinned = f" --revision {revision}" if revision else ""
    try:
        yield
    except GatedRepoError as error:
        raise InvalidCheckpoint(
            f"{name} asks its users to accept terms: do so on its page, then run `hf auth login` "
            "or set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise InvalidCheckpoint(
            f"the hub has no model {name}, or it is private: check the name (suno/bark, "
            "suno/bark-small), or run `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise InvalidCheckpoint(
            f"{name} has no revision {revision}: give a branch, tag or commit that its page lists"
        ) from error
    except HFValidationError as error:
        raise InvalidCheckpoint(f"{name} is no name that the hub could have: {error}") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise InvalidCheckpoint(
            f"{at} is not (completely) in the cache and the hub can not be reached, or may not "
            f"(HF_HUB_OFFLINE, offline): run `hf download {name}{pinned}` where there is a network "
            "and copy that machine's Hugging Face cache here, or give the model's folder instead"
        ) from error
    # What is left: the hub answers with an error, the network breaks off, or the disk is full.
    except (HTTPError, OSError) as error:
        raise InvalidCheckpoint(
            f"{at} could not be fetched ({type(error).__name__}: {error}): try again; what has "
            "arrived is kept"
        ) from error


def fetch_preset(name: str, folder: Path, preset: str) -> Path:
    """Bring one voice preset's three arrays into the snapshot that a model was loaded from.

    Presets are fetched one by one, at first use: a model has hundreds and a request needs one.

    Args:
        folder: the snapshot; its name is the commit that the preset is taken from.
        preset: as the model's speaker_embeddings_path.json lists it.

    Raises:
        VoiceNotFound: the model lists no such preset, or it can not be fetched.
    """
    try:
        files = json.loads((folder / "speaker_embeddings_path.json").read_bytes())[preset]
        with _progress_bars(False):
            for file in files.values():
                hf_hub_download(name, file, revision=folder.name, cache_dir=folder.parents[2])
    except (OSError, ValueError, KeyError, AttributeError, HTTPError) as error:
        raise VoiceNotFound(
            f"{name}'s voice preset {preset!r} could not be fetched ({type(error).__name__}); "
            "fetch it where there is a network, or give an .npz file."
        ) from error
    return folder


def fetch_vocabulary() -> Path:
    """Return the vocabulary that Suno's models read text with, for checkpoints that lack it.

    Suno's own code takes it from the hub too; their checkpoints never held it.

    Raises:
        InvalidCheckpoint: it is not in the cache, and the hub can not be reached.
    """
    try:
        with _progress_bars(False):
            return Path(hf_hub_download(_BERT, "vocab.txt"))
    except (OSError, ValueError, HTTPError) as error:
        raise InvalidCheckpoint(
            "this checkpoint has no vocab.txt or tokenizer.json, so it can not read text, and "
            f"{_BERT} could not be fetched from the hub ({type(error).__name__}): put its "
            "vocab.txt beside the weights, or name one with --tokenizer (tokenizer=…)"
        ) from error


@contextmanager
def _progress_bars(wanted: bool) -> Iterator[None]:
    """Turn the hub library's progress bars off for a while; it shows them on terminals only."""
    if wanted or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
