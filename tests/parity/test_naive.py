"""Our engine's whole runs equal the plain way's, on a checkpoint that the tests make.

These are the project's own cases: they need nothing but this repository. Greedy, fp32.
"""

import numpy as np
import pytest
import torch
from naive import coarse, fine, semantic
from ways import DEVICES

from pipeline import Bark
from pipeline.payloads import HistoryPrompt


@pytest.fixture(scope="module")
def reference(tiny):
    from transformers import BarkModel, logging

    logging.set_verbosity_error()
    return BarkModel.from_pretrained(tiny, dtype=torch.float32).eval()


@pytest.fixture(scope="module", params=DEVICES)
def bark(tiny, request):
    with Bark.load(tiny, slots=2, **request.param) as bark:
        yield bark


@pytest.fixture(scope="module")
def once():
    """Return what keeps the plain way's result for the next of our ways: it is slow."""
    known = {}

    def find(key, plain, *inputs, **more):
        if key not in known:
            known[key] = plain(*inputs, **more)
        return known[key]

    return find


def preset(num_semantic, seed):
    rng = np.random.default_rng(seed)
    frames = num_semantic * 750 // 499
    fine = rng.integers(0, 1024, (8, frames)).astype(np.int32)
    return HistoryPrompt(rng.integers(0, 10_000, num_semantic), fine[:2].copy(), fine)


VOICES = {
    "no voice": None,
    "long voice": preset(300, 1),
    "voice whose cut is odd": preset(84, 2),
}


@pytest.mark.parametrize("name", VOICES)
def test_semantic_run(bark, reference, once, name):
    voice = VOICES[name]
    text = bark.stages.text("hello, hello world").ids
    past = None if voice is None else voice.semantic
    settings = {"temperature": 0, "min_eos_p": None, "max_duration_s": 0.7}
    ours = bark.text_to_semantic("hello, hello world", voice=voice, **settings)
    plain = once(("semantic", name), semantic, reference, text, past, limit=35)
    np.testing.assert_array_equal(ours, plain)
    assert len(ours) > 3


@pytest.mark.parametrize("name", VOICES)
def test_coarse_run_over_several_windows(bark, reference, once, name):
    voice = VOICES[name]
    tokens = np.random.default_rng(4).integers(0, 10_000, 45)  # 67 frames: three windows
    past = None if voice is None else (voice.semantic, voice.coarse)
    ours = bark.semantic_to_coarse(tokens, voice=voice, temperature=0)
    plain = once(("coarse", name), coarse, reference, tokens, past)
    np.testing.assert_array_equal(ours, plain)
    assert ours.shape == (2, 67)


def test_coarse_run_past_the_point_where_the_window_moves(bark, reference, once):
    """Without a voice the prefix stands for eleven windows: this run has twelve."""
    tokens = np.random.default_rng(5).integers(0, 10_000, 225)
    ours = bark.semantic_to_coarse(tokens, temperature=0)
    plain = once("long", coarse, reference, tokens, None)
    np.testing.assert_array_equal(ours, plain)
    assert ours.size > 11 * 60


@pytest.mark.parametrize("name", VOICES)
@pytest.mark.parametrize(("given", "frames"), [(2, 40), (5, 40), (2, 1100)])
def test_fine_run(bark, reference, once, name, given, frames):
    voice = VOICES[name]
    codes = np.random.default_rng(6).integers(0, 1024, (given, frames))
    past = None if voice is None else voice.fine
    ours = bark.coarse_to_fine(codes, voice=voice, temperature=0)
    plain = once(("fine", name, given, frames), fine, reference, codes, past)
    np.testing.assert_array_equal(ours, plain)
