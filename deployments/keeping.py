"""A finished generation into the store: its sound and manifest, and a file as it was asked for."""

from __future__ import annotations

import hashlib
from typing import Any

from deployments.generation import Generation
from deployments.store_access import StoreAccess
from pipeline.audio import MEDIA_TYPES, SyntheticLabel, change_speed
from pipeline.errors import StoreUnavailable
from pipeline.generations import audio_key, rendition_key

Json = dict[str, Any]


async def keep(generation: Generation) -> Json:
    """Save a generation as wav, with its tokens and manifest; return the manifest that is there.

    Wav whatever was answered: equal ids keep equal samples, and one file, whoever was first.

    Raises:
        StoreUnavailable: nothing complete was left behind.
        EngineFailed: it can not be signed.
    """
    access, clip = generation.service.store, await generation.clip()

    def save() -> Json:
        label = label_of(generation)
        plain = generation.service.provenance.file(clip.samples, clip.sample_rate, "wav", label)
        facts = {**generation.manifest(clip), "owner": generation.owner}
        return access.generations.save(clip.id, plain, "wav", clip.tokens.as_mapping(), facts)

    return await access.run(save)


async def keep_for(owner: str, generation: Generation) -> None:
    """Keep a generation because a caller asked to, until that caller removes it."""
    access = generation.service.store
    await access.run(access.generations.hold, generation.id, kept_by(owner))
    await keep(generation)


def kept_by(owner: str) -> str:
    """Return how the note of a caller is named that keeps a generation."""
    return f"kept-{owner}"


async def keep_rendition(generation: Generation, audio_format: str, speed: float) -> Json:
    """Save the sound in a format and speed beside it, and return what is known of the file.

    Returns:
        `key` in the store, `sha256`, `bytes`, `media_type`.

    Raises:
        StoreUnavailable, InvalidRequest.
        EngineFailed: it can not be signed.
    """
    access, clip = generation.service.store, await generation.clip()

    def save() -> Json:
        key = rendition_key(clip.id, audio_format, speed)
        if key != audio_key(clip.id, "wav"):
            samples = change_speed(clip.samples, clip.sample_rate, speed)
            label = label_of(generation)
            file = generation.service.provenance.file
            data = file(samples, clip.sample_rate, audio_format, label)
            access.store.put_if_absent(key, data)
        found = _describe(access, key, audio_format)
        if found is None:
            raise StoreUnavailable(f"{key} vanished as soon as it was written")
        return found

    return await access.run(save)


async def find_kept(
    generation_id: str, access: StoreAccess, audio_format: str, speed: float
) -> tuple[Json, Json] | None:
    """Return the manifest and the file of a generation that was made before; None if either lacks.

    Raises:
        StoreUnavailable.
    """

    def find() -> tuple[Json, Json] | None:
        facts = access.generations.load_manifest(generation_id)
        key = rendition_key(generation_id, audio_format, speed)
        file = None if facts is None else _describe(access, key, audio_format)
        return None if facts is None or file is None else (facts, file)

    return await access.run(find)


def _describe(access: StoreAccess, key: str, audio_format: str) -> Json | None:
    """Read a file back: what is told of it is what is there, whoever wrote it."""
    data = access.store.get(key)
    if data is None:
        return None
    return {
        "key": key,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "media_type": MEDIA_TYPES[audio_format],
    }


def label_of(generation: Generation) -> SyntheticLabel:
    """Return what a file says about its origin."""
    name = generation.service.config.model.name
    return SyntheticLabel(name, generation.id, generation.seed, generation.request.voice)
