"""What is known of a voice preset: whose it is, where it comes from, and who agreed to it.

A preset made by this service, or published by Suno, may be kept by anyone. Any other may imitate
a person: it is kept only with a word on that person's consent, which stays in its record.
"""

from __future__ import annotations

import json
import time
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import InvalidRequest
from pipeline.payloads import HistoryPrompt
from pipeline.voices import SUNO_LANGUAGES, voice_digest

_MAX_CONSENT_CHARS = 2000


def voice_record(
    prompt: HistoryPrompt,
    name: str,
    *,
    generation_id: str | None = None,
    consent: str | None = None,
    language: str | None = None,
) -> dict[str, Any]:
    """Return the record of a preset that is to be kept.

    Args:
        generation_id: of the generation in this store that it was made from.
        consent: who agreed that this voice is used, and how: free words.
        language: two letters; None takes them from a name such as `v2/de_speaker_3`.

    Returns:
        name, digest, language, source (`generation`, `suno`, `upload`), consent, and when.

    Raises:
        InvalidRequest: a voice of unknown origin without consent; says what to give.
    """
    digest = voice_digest(prompt)
    consent = (consent or "").strip()[:_MAX_CONSENT_CHARS] or None
    if generation_id is not None:
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
