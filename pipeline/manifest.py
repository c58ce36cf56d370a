"""A generation's manifest: everything needed to make it again, and what it cost, as plain JSON."""

from __future__ import annotations

import hashlib
import time
from typing import Any

from pipeline.audio.label import installed_version
from pipeline.clip import Clip
from pipeline.spec import NUMERICS_VERSION


def manifest(
    clip: Clip,
    *,
    model: str,
    model_digest: str,
    precision: str,
    device_class: str,
    watermark: str | None = None,
) -> dict[str, Any]:
    """Describe a clip.

    `request` and `seed` with the model of `model_digest`, in this precision on this class of
    device, give samples of `samples_sha256` (float32, little-endian). `watermark` names what marks
    them, `perth 1.0.1`, or is None. `timings` are seconds: of the whole, and of the device by
    stage.
    """
    return {
        "id": clip.id,
        "synthetic": True,
        "model": model,
        "model_digest": model_digest,
        "request": clip.request.model_dump(mode="json"),
        "voice_digests": dict(clip.voice_digests),
        "seed": clip.seed,
        "precision": precision,
        "device_class": device_class,
        "numerics_version": NUMERICS_VERSION,
        "watermark": watermark,
        "version": installed_version(),
        "samples_sha256": samples_sha256(clip),
        "created_unix_s": round(time.time(), 3),
        "sample_rate": clip.sample_rate,
        "duration_s": clip.duration_s,
        "finish_reason": clip.finish_reason,
        "num_segments": len(clip.segments),
        "num_dropped": clip.num_dropped,
        "unknown_words": list(clip.unknown_words),
        "real_time_factor": clip.real_time_factor,
        "timings": {name: round(seconds, 6) for name, seconds in clip.timings.items()},
    }


def samples_sha256(clip: Clip) -> str:
    """Return the digest of a clip's samples."""
    return hashlib.sha256(clip.samples.astype("<f4", copy=False).tobytes()).hexdigest()
