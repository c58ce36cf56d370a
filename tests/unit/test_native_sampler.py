"""The kernels' draws: sampler.py's law, each row as if it were alone."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from test_sampler import LOGITS, reference

from pipeline.engine import native_sampler, sampler
from pipeline.engine.native.loader import is_supported
from pipeline.engine.sampler import NO_NUMBER, STOPPED, Asked
from pipeline.engine.sequence import SamplingParams
from pipeline.engine.uniforms import DrawKey
from pipeline.errors import EngineFailed

SUPPORTED, REASON = is_supported()
pytestmark = pytest.mark.skipif(not SUPPORTED, reason=f"native kernels: {REASON}")

DRAWS = 20_000
SEMANTIC = SamplingParams(0.7, ((10, 10_010),), 9, stop_id=10_010, min_stop_p=0.2)
COARSE = SamplingParams(0.7, ((10, 1034), (1034, 2058)), 9)


def one(logits: list[float], uniform: float = 0.5, **settings) -> int:
    row = np.array([logits], np.float32)
    params = SamplingParams(settings.pop("temperature", 1.0), ((0, len(logits)),), 9, **settings)
    return native_sampler.next_tokens(row, 0, [Asked(params, 0, uniform)])[0]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
def test_drawn_frequencies_match_the_probabilities(temperature):
    uniforms = DrawKey(21, 0, 0).uniforms(DRAWS)
    drawn = native_sampler.draw_rows(np.tile(LOGITS, (DRAWS, 1)), temperature, uniforms)
    counts = np.bincount(drawn, minlength=len(LOGITS))
    assert stats.chisquare(counts, reference(LOGITS, temperature) * DRAWS).pvalue > 1e-3


@pytest.mark.parametrize("params", [SEMANTIC, COARSE], ids=["semantic", "coarse"])
def test_tokens_are_those_of_numpy_but_for_rounding(params):
    random = np.random.default_rng(4)
    vocab = max(stop for _, stop in params.allowed) - 10 + (params.stop_id is not None)
    logits = (random.normal(size=(400, vocab)) * 3).astype(np.float32)
    asked = [Asked(params, n, random.random()) for n in range(len(logits))]
    ours = native_sampler.next_tokens(logits, 10, asked)
    theirs = sampler.next_tokens(logits, 10, asked)
    # a draw differs where its uniform lies within 1e-7 of a token's edge: once in a thousand runs
    assert sum(a != b for a, b in zip(ours, theirs, strict=True)) <= 1


def test_rows_drawn_together_get_the_tokens_they_have_alone():
    random = np.random.default_rng(5)
    kinds = set()
    for spread in (0.1, 1.0, 3.0, 10.0):
        logits = (random.normal(size=(16, 10_001)) * spread).astype(np.float32)
        logits[7] = np.nan
        asked = [
            Asked(
                replace(
                    SEMANTIC,
                    temperature=random.choice([0, 0.7, 1.5]),
                    top_k=50 if row == 3 else None,
                    top_p=0.9 if row == 4 else None,
                ),
                n=row,
                uniform=random.random(),
            )
            for row in range(len(logits))
        ]
        together = native_sampler.next_tokens(logits, 10, asked)
        alone = [
            native_sampler.next_tokens(logits[row, None], 10, [asked[row]])[0]
            for row in range(len(logits))
        ]
        assert together == alone
        assert together[7] == NO_NUMBER
        without = [row for row in range(len(logits)) if row not in (3, 4)]
        plain = native_sampler.next_tokens(logits[without], 10, [asked[row] for row in without])
        assert plain == [together[row] for row in without]  # filters beside it change nothing
        kinds.update(together)
    assert len(kinds) > 20


def test_stop_ends_as_often_as_its_probability_says():
    logits = np.append(LOGITS, np.float32(2.8))
    params = SamplingParams(0.9, ((0, len(LOGITS)),), 9, stop_id=len(LOGITS))
    asked = [Asked(params, 0, float(u)) for u in DrawKey(23, 0, 0).uniforms(DRAWS)]
    drawn = native_sampler.next_tokens(np.tile(logits, (DRAWS, 1)), 0, asked)
    p = reference(logits, 0.9)[-1]
    assert stats.binomtest(drawn.count(STOPPED), DRAWS, p).pvalue > 1e-3


@pytest.mark.parametrize(("floor", "ends"), [(0.05, True), (0.5, False)])
def test_likely_stop_ends_whatever_is_drawn(floor, ends):
    params = SamplingParams(1.0, ((0, 2),), 9, stop_id=2, min_stop_p=floor)
    logits = np.array([[3.0, 1.0, 1.5]], np.float32)
    drawn = native_sampler.next_tokens(logits, 0, [Asked(params, 0, 0.0)])
    assert drawn == [STOPPED if ends else 0]


def test_greedy_takes_the_first_of_equals():
    assert one([1.0, 5.0, 5.0], 0.999, temperature=0.0) == 1
    assert native_sampler.draw_rows(LOGITS[None], 0.0, np.array([0.9])).tolist() == [3]


@pytest.mark.parametrize("temperature", [1e-45, 1e-38, 1e-6, 1e6])
def test_any_temperature_gives_a_possible_token(temperature):
    best = one([1.0, 9.0, -np.inf], 0.9999, temperature=temperature)
    assert best == 1


def test_uniform_near_one_never_leaves_the_possible_tokens():
    assert one([1.0, 9.0, -np.inf, -np.inf], float(np.nextafter(1.0, 0.0))) == 1
    flat = np.zeros((1, 10_001), np.float32)
    drawn = native_sampler.draw_rows(flat, 0.7, np.array([np.nextafter(1.0, 0.0)]))
    assert drawn.tolist() == [10_000]


@pytest.mark.parametrize(
    "logits", [[1.0, np.nan], [np.nan, np.nan], [np.inf, 1.0], [-np.inf, -np.inf]]
)
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_logits_that_are_no_numbers_are_told_apart_from_tokens(logits, temperature):
    assert one(logits, temperature=temperature) == NO_NUMBER
    with pytest.raises(EngineFailed, match="no numbers"):
        native_sampler.draw_rows(np.array([logits], np.float32), temperature, np.array([0.5]))


@pytest.mark.parametrize(
    ("allowed", "stop_id"),
    [((9, 12), None), ((12, 15), None), ((12, 12), None), ((10, 12), 14), ((10, 12), 9)],
)
def test_ids_outside_the_logits_are_refused(allowed, stop_id):
    params = SamplingParams(0.7, (allowed,), 9, stop_id=stop_id)
    with pytest.raises(ValueError, match="are not among the logits"):
        native_sampler.next_tokens(np.zeros((1, 4), np.float32), 10, [Asked(params, 0, 0.5)])
