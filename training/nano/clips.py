"""Step 1: thousands of texts said by the teacher, in files of a thousand clips.

Each file is made of its own seed and is written whole or not at all: an interrupted run goes on
with the first one missing.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from training.nano.held_out import all_held_out, fingerprint
from training.nano.teacher import RATE_HZ, VOICES, Clip, Teacher
from training.nano.words import random_text

PART = 1000
LONGEST_S = 4.6


def make_clips(folder: Path, count: int, processes: int) -> None:
    """Write `count` clips, PART to a file, on several processes; print progress."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [i for i in range(-(-count // PART)) if not _path(folder, i).exists()]
    began, seconds = time.monotonic(), 0.0
    # Spawned, not forked: onnxruntime's threads do not survive a fork.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        jobs = [(folder, part) for part in parts]
        for done, made in enumerate(pool.imap_unordered(_make_part, jobs), start=1):
            seconds += made
            took = time.monotonic() - began
            left = took / done * (len(parts) - done)
            print(f"clips: part {done} of {len(parts)}, {left:.0f} s left", flush=True)
    if parts:
        print(f"clips: {seconds / 3600:.2f} hours of speech")


def read_clips(folder: Path) -> Iterator[Clip]:
    """Yield every clip in order."""
    for path in sorted(folder.glob("part-*.npz")):
        with np.load(path, allow_pickle=False) as part:
            facts = json.loads(part["facts"].tobytes())
            samples, ends_s = part["samples"], part["ends_s"]
        at = symbol = 0
        for fact in facts:
            stop, last = at + fact["samples"], symbol + len(fact["symbols"])
            yield Clip(
                fact["text"],
                fact["voice"],
                samples[at:stop].astype(np.float32) / 32767,
                tuple(fact["symbols"]),
                ends_s[symbol:last],
            )
            at, symbol = stop, last


def _make_part(job: tuple[Path, int]) -> float:
    folder, part = job
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
    draft = _path(folder, part).with_suffix(f".{os.getpid()}")
    with draft.open("wb") as file:
        np.savez(
            file,
            facts=np.frombuffer(json.dumps(facts).encode(), np.uint8),
            samples=np.concatenate(
                [(np.clip(c.samples, -1, 1) * 32767).astype(np.int16) for c in clips]
            ),
            ends_s=np.concatenate([c.ends_s for c in clips]),
        )
    draft.replace(_path(folder, part))
    return sum(len(c.samples) for c in clips) / RATE_HZ


def _path(folder: Path, part: int) -> Path:
    return folder / f"part-{part:03}.npz"
