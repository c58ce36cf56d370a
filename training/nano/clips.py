"""Step 1: thousands of texts said by the teacher, in files of a thousand clips."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.nano.held_out import all_held_out, fingerprint
from training.nano.parts import make_parts, part_paths
from training.nano.teacher import RATE_HZ, VOICES, Clip, Teacher
from training.nano.words import random_text

PART = 1000
LONGEST_S = 4.6


def make_clips(folder: Path, count: int) -> None:
    """Write `count` clips, PART to a file, on several processes; print progress."""
    make_parts("clips", folder, -(-count // PART), _make_part)


def read_clips(folder: Path) -> Iterator[Clip]:
    """Yield every clip in order."""
    for path in part_paths(folder):
        with np.load(path, allow_pickle=False) as part:
            facts = json.loads(part["facts"].tobytes())
            samples, ends_s = part["samples"], part["ends_s"]
        at = symbol = 0
        for fact in facts:
            stop, last = at + fact["samples"], symbol + len(fact["symbols"])
            yield Clip(
                fact["text"],
                tuple(fact["symbols"]),
                ends_s[symbol:last],
                fact["voice"],
                samples[at:stop].astype(np.float32) / 32767,
            )
            at, symbol = stop, last


def _make_part(part: int) -> dict[str, NDArray[Any]]:
    rng, teacher = random.Random(f"clips/{part}"), Teacher()
    clips: list[Clip] = []
    while len(clips) < PART:
        text, voice = random_text(rng), VOICES[len(clips) % len(VOICES)]
        if fingerprint(text) in all_held_out():
            continue
        clip = teacher(text, voice, seed=part * PART + len(clips))
        if len(clip.samples) <= LONGEST_S * RATE_HZ:
            clips.append(clip)
    facts = [
        {"text": c.text, "voice": c.voice, "symbols": c.symbols, "samples": len(c.samples)}
        for c in clips
    ]
    return {
        "facts": np.frombuffer(json.dumps(facts).encode(), np.uint8),
        "samples": np.concatenate(
            [(np.clip(c.samples, -1, 1) * 32767).astype(np.int16) for c in clips]
        ),
        "ends_s": np.concatenate([c.ends_s for c in clips]),
    }
