"""What is known of a voice preset: whose it is, where it comes from, and who agreed to it.

A preset made by this service, or published by Suno, may be kept by anyone. Any other may imitate
a person: it is kept only with a word on that person's consent, which stays in its record.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import InvalidRequest
from pipeline.payloads import HistoryPrompt
from pipeline.stored_voices import Voices, is_voice_name
from pipeline.voice_files import voice_digest
from pipeline.voices import SUNO_LANGUAGES, VoiceLibrary

_MAX_CONSENT_CHARS = 2000


def voice_record(
    prompt: HistoryPrompt,
    name: str,
    *,
    generation_id: str | None = None,
    parents: Mapping[str, Mapping[str, Any] | None] | None = None,
    consent: str | None = None,
    language: str | None = None,
) -> dict[str, Any]:
    """Return the record of a preset that is to be kept.

    Args:
        generation_id: of the generation in this store that it was made from.
        parents: digest → record of the voices that the generation spoke with; None: not known. A
            voice keeps on being whose it was, so consent is handed down, and asked for where the
            parent's origin is unknown.
        consent: who agreed that this voice is used, and how: free words.
        language: two letters; None takes them from a name such as `v2/de_speaker_3`.

    Returns:
        name, digest, language, source (`generation`, `suno`, `upload`), consent, and when.

    Raises:
        InvalidRequest: a voice of unknown origin without consent; says what to give.
    """
    digest = voice_digest(prompt)
    consent = (consent or "").strip()[:_MAX_CONSENT_CHARS] or None
    strangers = {d: r for d, r in (parents or {}).items() if d not in suno_presets()}
    if consent is None and strangers and all(r is not None for r in strangers.values()):
        handed_down = [str(r["consent"]) for r in strangers.values() if r and r.get("consent")]
        consent = "; ".join(dict.fromkeys(handed_down)) or None
        strangers = {}
    if suno_digests().get(name) not in (None, digest):
        raise InvalidRequest(f"{name!r} is the name of one of Suno's voices; choose another")
    if generation_id is not None and (consent is not None or not strangers):
        source = "generation"
    elif digest in suno_presets():
        source = "suno"
    elif consent is not None:
        source = "upload"
    else:
        raise InvalidRequest(
            "this voice was made neither here nor by Suno: give `consent`, in words: whose voice "
            "it is, and that they agree to its use"
        )
    return {
        "name": name,
        "digest": digest,
        "language": language or language_of(name),
        "source": source,
        "generation_id": generation_id,
        "suno_preset": suno_presets().get(digest),
        "parents": sorted(parents or {}),
        "consent": consent,
        "added_unix_s": round(time.time(), 3),
    }


@cache
def suno_presets() -> dict[str, str]:
    """Return digest → name of the presets that Suno published (the announcer, and v2)."""
    found: dict[str, str] = json.loads(Path(__file__).with_name("suno_presets.json").read_text())
    return found


def suno_digests() -> dict[str, str]:
    """Return the same the other way round: name → digest."""
    return {name: digest for digest, name in suno_presets().items()}


def language_of(name: str) -> str | None:
    """Return the language that a name such as `v2/de_speaker_3` begins with."""
    code = name.rpartition("/")[2].partition("_")[0]
    return code if code in SUNO_LANGUAGES else None


def parents_of(
    manifest: Mapping[str, Any] | None, voices: Voices, own: Callable[[str], bool]
) -> dict[str, Mapping[str, Any] | None]:
    """Return the voices that a generation spoke with, for `voice_record`.

    Args:
        manifest: None where the generation has none.
        own: says whether a name is of the model's own presets, which are nobody's.
    """
    found: dict[str, Mapping[str, Any] | None] = {}
    for name, digest in ((manifest or {}).get("voice_digests") or {}).items():
        record = voices.show(name) if is_voice_name(name) else None
        if record is not None and record.get("digest") == digest:
            found[digest] = record
        elif not own(name):
            found[digest] = None
    return found


def is_own(name: str, library: VoiceLibrary, voices: Voices) -> bool:
    """Say whether a preset is the model's own, and not one of the store's."""
    return is_voice_name(name) and library.is_at_hand(name) and not voices.has_arrays(name)
