"""The rules of the stages as plain arithmetic, against numbers in the specification."""

from itertools import pairwise

import numpy as np
import pytest

from pipeline.errors import InvalidRequest, InvalidVoice
from pipeline.payloads import HistoryPrompt, TextTokens
from pipeline.request import CoarseSettings
from pipeline.spec import BarkSpec
from pipeline.stages.coarse import Windows
from pipeline.stages.fine import window_starts
from pipeline.stages.semantic import max_tokens, semantic_prompt

SPEC = BarkSpec()


def history(num_semantic, frames=None):
    frames = SPEC.num_frames(num_semantic) if frames is None else frames
    return HistoryPrompt(
        np.arange(num_semantic, dtype=np.int64),
        np.arange(2 * frames, dtype=np.int32).reshape(2, frames) % 1024,
        np.zeros((8, frames), np.int32),
    )


# ── semantic ─────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("seconds", "tokens"), [(0, 1), (0.5, 25), (1.0, 50), (2.0, 100), (99.0, 768), (None, 768)]
)
def test_duration_cap_keeps_the_crossing_token(seconds, tokens):
    assert max_tokens(seconds, SPEC.semantic) == tokens


def test_semantic_prompt_sums_text_and_history_slot_by_slot():
    text = TextTokens(np.full(256, SPEC.semantic.text_pad_id), 0)
    prompt = semantic_prompt(text, history(300), SPEC.semantic)
    assert len(prompt.tokens) == 257
    assert prompt.tokens[-1] == 129_599
    assert prompt.added.tolist() == list(range(44, 300))  # the last 256, from slot 0 on


def test_short_history_is_padded_on_the_right():
    text = TextTokens(np.full(256, SPEC.semantic.text_pad_id), 0)
    added = semantic_prompt(text, history(3), SPEC.semantic).added
    assert added[:5].tolist() == [0, 1, 2, 10_000, 10_000]


# ── coarse ───────────────────────────────────────────────────────────────────────────────────────
def plan(num_tokens, past=None, **settings):
    ids = np.arange(num_tokens, dtype=np.int64)
    return Windows.plan(ids, past, CoarseSettings(**settings), SPEC)


@pytest.mark.parametrize(("semantic", "frames"), [(1, 1), (2, 3), (3, 4), (499, 750), (768, 1154)])
def test_number_of_frames(semantic, frames):
    assert plan(semantic).num_tokens == 2 * frames


@pytest.mark.parametrize(
    ("num_semantic", "kept", "past"),
    [
        pytest.param(300, 209, 626, id="long: 209 and 628 less a frame"),
        pytest.param(210, 209, 626, id="just long enough"),
        pytest.param(84, 83, 247, id="odd: begins with a second codebook's token"),
        pytest.param(3, 2, 4, id="short and odd"),
    ],
)
def test_history_is_cut_as_the_original_cuts(num_semantic, kept, past):
    windows = plan(10, history(num_semantic))
    assert (windows.base, len(windows.past)) == (kept, past)


def test_odd_cut_begins_in_the_second_codebook():
    assert plan(10, history(84)).past[0] >= SPEC.codebook_range(1)[0]


def test_window_without_history_stands_for_eleven_windows():
    """What lets the engine keep its cache: each prompt extends the one before."""
    windows = plan(400)
    made = list(range(10_000, 11_200))
    prompts = [windows.prompt(made[: 60 * w]).tokens for w in range(13)]
    grows = [np.array_equal(after[: len(before)], before) for before, after in pairwise(prompts)]
    assert grows == [True] * 10 + [False] * 2


def test_window_layout_in_mid_speech():
    windows = plan(500, history(300))
    made = list(range(120))
    tokens = windows.prompt(made).tokens
    assert len(tokens) == 256 + 1 + 630
    assert tokens[256] == 12_050
    assert tokens[-120:].tolist() == made
    # i = 209 + 40; the slice begins at i - 209 = 40 and looks 47 tokens ahead of i
    assert tokens[0] == windows.semantic[40]
    assert tokens[255] == windows.semantic[295]


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"max_history": 59}, "max_history"),
        ({"max_history": 631}, "max_history"),
        ({"max_history": 630, "window": 139}, "at most 768"),
    ],
)
def test_windows_that_the_model_has_no_room_for_are_refused(settings, names):
    with pytest.raises(InvalidRequest, match=names):
        plan(10, **settings)


def test_no_semantic_tokens_are_refused():
    with pytest.raises(InvalidRequest, match="no semantic tokens"):
        plan(0)


# ── fine ─────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("frames", "past", "starts"),
    [
        (1154, 0, [(0, 0), (130, 512)]),
        (1154, 512, [(0, 512), (512, 1024), (642, 1154)]),
        (600, 512, [(0, 512), (88, 600)]),
        (513, 512, [(0, 512), (1, 513)]),
        (1024, 0, [(0, 0)]),
        (1, 0, [(0, 0)]),
    ],
)
def test_fine_windows(frames, past, starts):
    assert window_starts(frames, past, max(1024, frames + past), SPEC) == starts


# ── history prompts ──────────────────────────────────────────────────────────────────────────────
def test_history_prompt_with_a_wrong_ratio_is_refused():
    with pytest.raises(InvalidVoice, match=r"ratio of 2\.00"):
        history(100, frames=200).checked(SPEC)


@pytest.mark.parametrize("length", [1, 3, 5, 7, 9])
def test_generations_of_few_odd_tokens_are_no_presets(length):
    with pytest.raises(InvalidVoice, match="ratio"):
        history(length).checked(SPEC)


@pytest.mark.parametrize("length", [2, 4, 6, 8, 10, 11, 12, 499, 768])
def test_all_other_lengths_are_presets(length):
    assert history(length).checked(SPEC)


def test_values_out_of_range_are_named():
    bad = history(100)
    bad.coarse[0, 3] = 1024
    with pytest.raises(InvalidVoice, match=r"coarse_prompt holds 0…1024"):
        bad.checked(SPEC)
