import numpy as np
import pytest
from scipy import stats

from pipeline.engine.sampler import (
    NO_NUMBER,
    STOPPED,
    Asked,
    draw,
    draw_rows,
    next_token,
    next_tokens,
    probabilities,
    softmax,
)
from pipeline.engine.sequence import SamplingParams
from pipeline.engine.uniforms import DrawKey
from pipeline.errors import EngineFailed

LOGITS = np.array([2.0, -1.0, 0.5, 3.0, 1.5, -2.0, 0.0, 2.5], np.float32)
DRAWS = 20_000


def reference(logits, temperature, top_k=None, top_p=None):
    """The filters in float64, written from the original's description."""
    logits = logits.astype(np.float64)
    keep = np.ones(len(logits), bool)
    if top_p is not None:
        p = np.exp(logits) / np.exp(logits).sum()
        before = 0.0
        for index in np.argsort(-logits):
            keep[index] = before <= top_p
            before += p[index]
        keep[logits.argmax()] = True
    if top_k is not None:
        keep &= logits >= np.sort(np.where(keep, logits, -np.inf))[::-1][top_k - 1]
    weights = np.where(keep, np.exp(logits / temperature), 0.0)
    return weights / weights.sum()


LAWS = [
    pytest.param(0.7, None, None, id="temperature"),
    pytest.param(1.0, 3, None, id="top_k"),
    pytest.param(1.0, None, 0.7, id="top_p"),
    pytest.param(1.3, 4, 0.8, id="all"),
]


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), LAWS)
def test_probabilities_follow_the_law(temperature, top_k, top_p):
    ours = probabilities(LOGITS, temperature, top_k, top_p)
    np.testing.assert_allclose(ours, reference(LOGITS, temperature, top_k, top_p), atol=1e-6)


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), LAWS)
def test_drawn_frequencies_match_the_probabilities(temperature, top_k, top_p):
    """Chi-square over 20,000 tokens, drawn as the engine draws them."""
    params = SamplingParams(temperature, ((0, len(LOGITS)),), DRAWS, top_k=top_k, top_p=top_p)
    uniforms = DrawKey(11, 0, 0).uniforms(DRAWS)
    drawn = [next_token(LOGITS, 0, params, n, float(u)) for n, u in enumerate(uniforms)]
    counts = np.bincount(drawn, minlength=len(LOGITS))
    expected = reference(LOGITS, temperature, top_k, top_p) * DRAWS
    assert (counts[expected == 0] == 0).all()
    some = expected > 0
    assert stats.chisquare(counts[some], expected[some]).pvalue > 1e-3


def test_drawn_rows_match_the_probabilities():
    uniforms = DrawKey(12, 0, 2).uniforms(DRAWS)
    drawn = draw_rows(np.tile(LOGITS, (DRAWS, 1)), 0.5, uniforms)
    counts = np.bincount(drawn, minlength=len(LOGITS))
    assert stats.chisquare(counts, reference(LOGITS, 0.5) * DRAWS).pvalue > 1e-3


@pytest.mark.parametrize(
    ("vocab", "ranges", "stop"),
    [
        pytest.param(2048, ((10, 1034), (1034, 2058)), None, id="coarse"),
        pytest.param(10_001, ((10, 10_010),), 10_010, id="semantic"),
        pytest.param(256, ((12, 140), (20, 200)), 265, id="ends of blocks"),
    ],
)
def test_rows_drawn_together_get_the_tokens_they_have_alone(vocab, ranges, stop):
    random = np.random.default_rng(3)
    kinds = set()
    for spread in (0.1, 1.0, 3.0, 10.0) * 10:
        logits = (random.normal(size=(random.integers(2, 17), vocab)) * spread).astype(np.float32)
        broken = random.integers(len(logits))
        logits[broken] = np.nan
        asked = [
            Asked(
                SamplingParams(
                    random.choice([0, 0.3, 0.7, 1.5]),
                    ranges,
                    9,
                    top_k=random.choice([None, 1, 50]),
                    top_p=random.choice([None, 0.5, 0.95]),
                    stop_id=stop,
                    min_stop_p=None if stop is None else random.choice([None, 1e-4]),
                ),
                n=int(random.integers(9)),
                uniform=random.random(),
            )
            for _ in logits
        ]
        together = next_tokens(logits, 10, asked)
        assert together.pop(broken) == NO_NUMBER
        del asked[broken]
        rows = np.delete(logits, broken, axis=0)
        alone = [next_tokens(row[None], 10, [one])[0] for row, one in zip(rows, asked, strict=True)]
        assert together == alone
        kinds.update(token == STOPPED for token in together)
    assert kinds == ({False} if stop is None else {False, True})


def test_logits_that_are_no_numbers_are_told():
    with pytest.raises(EngineFailed, match="no numbers"):
        next_token(np.full(4, np.nan, np.float32), 0, SamplingParams(0.7, ((0, 4),), 9), 0, 0.5)


def test_stop_ends_as_often_as_its_probability_says():
    stop = np.append(LOGITS, np.float32(2.8))
    params = SamplingParams(0.9, ((0, len(LOGITS)),), DRAWS, stop_id=len(LOGITS))
    uniforms = DrawKey(13, 0, 0).uniforms(DRAWS)
    ends = sum(next_token(stop, 0, params, 0, float(u)) is None for u in uniforms)
    p = reference(stop, 0.9)[-1]
    assert stats.binomtest(ends, DRAWS, p).pvalue > 1e-3


@pytest.mark.parametrize(
    ("min_stop_p", "top_k", "ends"),
    [
        pytest.param(0.05, None, True, id="likely enough"),
        pytest.param(0.5, None, False, id="not likely enough"),
        pytest.param(0.05, 1, False, id="filtered out"),
    ],
)
def test_min_stop_p_looks_at_the_filtered_tempered_probability(min_stop_p, top_k, ends):
    logits = np.array([3.0, 1.0, 1.5], np.float32)  # id 2 stops
    params = SamplingParams(1.0, ((0, 2),), 9, top_k=top_k, stop_id=2, min_stop_p=min_stop_p)
    assert (next_token(logits, 0, params, 0, 0.0) is None) is ends


def test_greedy_takes_the_first_of_equals():
    assert draw(probabilities(np.array([1.0, 5.0, 5.0], np.float32), 0), 0.999) == 1


def test_ties_at_the_top_k_threshold_all_stay():
    p = probabilities(np.array([1.0, 1.0, 2.0, 0.0], np.float32), 1.0, top_k=2)
    assert (p > 0).tolist() == [True, True, True, False]


def test_uniform_near_one_never_leaves_the_possible_tokens():
    p = probabilities(np.array([1.0, 9.0, -50.0], np.float32), 1.0, top_k=2)
    assert draw(p, np.nextafter(1.0, 0.0)) == 1


def test_logits_are_left_as_they_were():
    before = LOGITS.copy()
    probabilities(LOGITS, 0.7, 2, 0.5)
    np.testing.assert_array_equal(LOGITS, before)


def test_uniforms_are_stable_and_distinct_by_address():
    """The first numbers of a stream are part of every id's promise: they may never change."""
    first = DrawKey(7, 0, 0).uniforms(3)
    np.testing.assert_allclose(first, FIRST_UNIFORMS, rtol=0, atol=0)
    assert (DrawKey(7, 0, 0).uniforms(9)[:3] == first).all()
    others = [DrawKey(8, 0, 0), DrawKey(7, 1, 0), DrawKey(7, 0, 1)]
    assert all((key.uniforms(3) != first).all() for key in others)
    assert (DrawKey(7, 0, 0).uniforms(3, block=1) != first).all()
    assert stats.kstest(DrawKey(1, 2, 2).uniforms(DRAWS), "uniform").pvalue > 1e-3


def test_softmax_survives_large_logits():
    assert softmax(np.array([1e4, -1e4], np.float32)).tolist() == [1.0, 0.0]


FIRST_UNIFORMS = [0.8720734548204873, 0.29536538151378355, 0.4200976785072422]
