"""nano speaks: heard by a recogniser, told apart by voice, and run by transformers unchanged.

Twenty texts of each kind, none of them trained on, at default settings, over three seeds; the
full evaluation is `python -m training.nano evaluate`, its scores are in the model's record.
"""

import hashlib
import json
import re
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import Bark
from pipeline.models.locate import locate
from training.nano.evaluation import Judge
from training.nano.held_out import held_out
from training.nano.recogniser import accuracy
from training.nano.record import read_record
from training.nano.words import PHRASES

FOLDER = locate("nano")
# Every fifth of the hundred of the full evaluation. Neighbours are alike: of the first twenty
# alone words are 15 points behind the teacher's, of the last twenty 1; of every fifth, 6.
NUM_TEXTS, EVERY = 20, 5


@pytest.fixture(scope="module")
def bark():
    with Bark.load("nano") as bark:
        yield bark


@pytest.fixture(scope="module")
def judge():
    return Judge()


def test_it_is_heard_as_the_teacher_is(bark, judge):
    scores = judge.score(bark, split="test", count=NUM_TEXTS, every=EVERY)
    print(json.dumps(scores.as_dict()))
    assert scores.failures() == []


def test_the_full_evaluation_of_these_weights_passed_every_gate():
    record = read_record(FOLDER)
    weights = (FOLDER / "model.safetensors").read_bytes()
    assert record["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert record["scores"]["failures"] == []
    assert record["scores"]["num_clips"] >= 600
    assert set(record["networks"]) == {"semantic", "coarse", "fine", "codec"}
    assert all(network["step"] > 100 for network in record["networks"].values())
    assert "hibari-tts" in (FOLDER / "NOTICE").read_text()


def test_it_is_small_enough_to_ship():
    """As a wheel packs it: the coarse model's table holds zeros where it never answers."""
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(len(zlib.compress(path.read_bytes())) for path in files) < 25_000_000


@torch.inference_mode()
def test_transformers_runs_it_unchanged(judge):
    from transformers import BarkModel, BarkProcessor, logging

    logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = BarkModel.from_pretrained(FOLDER, dtype=torch.float32).eval()
        processor = BarkProcessor.from_pretrained(FOLDER)
        texts, heard = held_out("test", "digits", 8), []
        for number, text in enumerate(texts):
            torch.manual_seed(number)
            inputs = processor(text, voice_preset=("heart", "oak")[number % 2])
            samples = model.generate(**inputs)[0].float().numpy()
            heard.append(judge.heard("digits", samples))
    assert accuracy(texts, heard) > 0.9


def test_voices_are_generations_kept_as_presets(bark, judge):
    for voice in ("heart", "oak"):
        text, seed = "The train leaves at nine on Monday.", 5
        clip = bark.generate(text, voice=voice, seed=seed)
        assert judge.speakers.nearest(clip.samples) == voice
        again = bark.generate("My name is Anna.", voice=clip.tokens, seed=seed)
        assert judge.speakers.nearest(again.samples) == voice


def test_an_unknown_word_is_spelt_and_a_foreign_one_announced(bark, judge):
    spelt = bark.generate("My name is Brk.", seed=2)
    assert spelt.unknown_words == ()
    plain = bark.generate("My name is.", seed=2)
    assert spelt.duration_s > plain.duration_s + 0.5  # three letters take their time
    foreign = bark.generate("Hello 学校.", seed=2)
    assert "学" in "".join(foreign.unknown_words)
    assert foreign.finish_reason == "stop"


def test_phrases_for_a_demonstration_are_heard(bark, judge):
    clips = bark.generate_many([{"text": text, "seed": 3} for text in PHRASES])
    heard = [judge.heard("words", clip.samples) for clip in clips]
    taught = [judge.heard("words", judge.teacher(text).samples) for text in PHRASES]
    assert accuracy(PHRASES, heard) >= accuracy(PHRASES, taught) - 0.08


def test_loudness_is_even_and_joins_do_not_click(bark):
    text = "Seven birds are in the garden. The train leaves at nine. Good morning, Anna. " * 2
    clip = bark.generate(text, voice="heart", seed=4)
    assert len(clip.segments) > 1
    levels = [_loudness(segment.sound.samples) for segment in clip.segments]
    assert max(levels) - min(levels) < 6  # dB
    steps = np.abs(np.diff(clip.samples))
    joins = np.cumsum([len(s.sound.samples) for s in clip.segments])[:-1]
    silence = round(clip.request.silence_s * clip.sample_rate)
    for number, join in enumerate(joins):
        at = join + number * silence
        near = steps[at - 5 : at + silence + 5]
        assert near.max() < 0.1 * steps.max()


def _loudness(samples: np.ndarray) -> float:
    """Return the level in dB of what is not silence."""
    frames = samples[: len(samples) // 240 * 240].reshape(-1, 240)
    rms = np.sqrt((frames**2).mean(axis=1))
    return float(20 * np.log10(np.sqrt((rms[rms > 0.1 * rms.max()] ** 2).mean())))


def test_its_numbers_stand_in_no_code():
    """All of nano's windows and vocabularies come from its configs."""
    config = json.loads((FOLDER / "config.json").read_text())
    numbers = {config["semantic_config"]["input_vocab_size"], 2640, 3665}
    root = Path(FOLDER).parents[1]
    for path in root.rglob("*.py"):
        found = set(map(int, re.findall(r"\b\d{4,5}\b", path.read_text().replace("_", ""))))
        assert not found & numbers, path
