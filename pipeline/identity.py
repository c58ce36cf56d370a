"""A generation's id: the digest of everything that decides its sound."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from pipeline.request import SynthesisRequest
from pipeline.spec import NUMERICS_VERSION, Precision

ID_LENGTH = 32  # hex digits: 128 bits


def generation_id(
    request: SynthesisRequest,
    seed: int,
    *,
    model_digest: str,
    voice_digests: Mapping[str, str],
    precision: Precision,
    device_class: str,
    watermark: str | None = None,
) -> str:
    """Return 32 hex digits: equal for requests that must give equal samples, else different.

    Args:
        watermark: what decides the mark in the sound (`Watermark.identity`); None: there is none,
            and the id is what it was before there were any.
    """
    fields: list[object] = [
        model_digest,
        request.canonical(voice_digests),
        seed,
        precision,
        device_class,
        NUMERICS_VERSION,
    ]
    if watermark is not None:
        fields.append(watermark)
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:ID_LENGTH]
