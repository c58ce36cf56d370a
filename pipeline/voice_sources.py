"""Where a model's voices come from: folders, the model's own, the hub, a store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.models.checkpoint import Checkpoint
from pipeline.models.locate import preset_fetcher
from pipeline.store import Store
from pipeline.store.local import LocalStore
from pipeline.stored_voices import Voices
from pipeline.voices import VoiceLibrary


def voice_library(
    model: str,
    checkpoint: Checkpoint,
    folders: Sequence[Path] = (),
    store: Store | None = None,
) -> VoiceLibrary:
    """Return the presets of these folders, of the model (those on the hub among them), of a store.

    In a store that is a folder, presets come before the model's own, in a bucket after them.
    """
    roots, stored = list(folders), None
    if isinstance(store, LocalStore):
        roots.append(store.root / "voices")
    elif store is not None:
        stored = Voices(store)
    if checkpoint.voices_path is not None:
        roots.append(checkpoint.voices_path)
    return VoiceLibrary(roots, stored=stored, fetch=preset_fetcher(model, checkpoint.path))
