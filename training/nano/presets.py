"""nano's voices: generations without a voice, kept as presets, as any user may make them.

Without a voice nano speaks as one of the two, as chance has it. Of some seeds, each voice gets
the clip nearest to the teacher's among those in which every word is heard. Stored as
transformers' `BarkProcessor` stores its own: three .npy files a voice and one index.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.bark import Bark
from training.nano.evaluation import Judge, speak
from training.nano.recogniser import edits
from training.nano.teacher import VOICES
from training.nano.words import split_words

# More than the 1.6 s that the coarse model looks back; of digits the recogniser is sure.
PRESET_TEXT: Final = "Nine eight two four seven one."
_NUM_SEEDS: Final = 48


def make_presets(folder: Path, judge: Judge) -> dict[str, int]:
    """Write a preset for each voice into a checkpoint's folder; return their seeds.

    Raises:
        RuntimeError: no seed gave a clear clip of some voice.
    """
    bark = Bark.load(folder)
    chosen: dict[str, int] = {}
    best = dict.fromkeys(VOICES, float("inf"))
    prompts = {}
    clips = [clip for (clip,) in speak(bark, [PRESET_TEXT], range(_NUM_SEEDS))]
    for seed, clip in enumerate(clips):
        distances = judge.speakers.distances(clip.samples)
        voice = min(distances, key=distances.__getitem__)
        heard = judge.heard("digits", clip.samples)
        if edits(split_words(PRESET_TEXT), heard) or distances[voice] >= best[voice]:
            continue
        best[voice], chosen[voice], prompts[voice] = distances[voice], seed, clip.tokens
    if missing := set(VOICES) - set(chosen):
        raise RuntimeError(f"no clear clip of {', '.join(missing)} in {_NUM_SEEDS} seeds")
    (folder / "speaker_embeddings").mkdir(exist_ok=True)
    index: dict[str, dict[str, str]] = {}
    for voice in VOICES:
        index[voice] = {}
        for name, array in prompts[voice].as_mapping().items():
            path = f"speaker_embeddings/{voice}_{name}.npy"
            np.save(folder / path, array)
            index[voice][name] = path
    text = json.dumps({"repo_or_path": "", **index}, indent=2, sort_keys=True)
    (folder / "speaker_embeddings_path.json").write_text(text + "\n")
    return chosen
