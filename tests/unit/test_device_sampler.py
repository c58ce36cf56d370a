"""The device's sampler against the host's: one law, and equal tokens row by row."""

from functools import partial

import numpy as np
import pytest
import torch
from devices import DEVICES
from scipy import stats
from test_sampler import LAWS, reference

from pipeline.engine import sampler
from pipeline.engine.device_sampler import MAX_RANGES, SamplingRows, draw_rows
from pipeline.engine.sampler import NO_NUMBER, STOPPED
from pipeline.engine.sequence import SamplingParams
from pipeline.engine.uniforms import DrawKey

FIRST, VOCAB, ROWS = 100, 300, 64
# An fp32 exp is rounded in its last bit otherwise by NumPy than by torch, so two probabilities
# may differ by this much; a uniform nearer than it to a border may fall on either side.
ROUNDING = 1e-6


def random_params(rng) -> SamplingParams:
    ranges = [
        tuple(FIRST + np.sort(rng.choice(VOCAB - 1, 2, replace=False)))
        for _ in range(rng.integers(1, MAX_RANGES + 1))
    ]
    stops = rng.random() < 0.5
    return SamplingParams(
        temperature=float(rng.choice([0, 0.3, 0.7, 1.0, 1.7])),
        allowed=tuple((int(a), int(b)) for a, b in ranges),
        max_tokens=50,
        top_k=int(rng.integers(1, 120)) if rng.random() < 0.4 else None,
        top_p=float(rng.uniform(0.05, 1.0)) if rng.random() < 0.4 else None,
        # before, within or past the ranges: all the same
        stop_id=FIRST + VOCAB - 1 if stops else None,
        min_stop_p=float(rng.uniform(0.0, 0.3)) if stops and rng.random() < 0.5 else None,
    )


def random_logits(rng, rows: int = ROWS) -> np.ndarray:
    logits = rng.normal(0, rng.choice([0.5, 2.0, 6.0]), (rows, VOCAB)).astype(np.float32)
    ties = rng.random((rows, 1)) < 0.2
    return np.where(ties, np.round(logits), logits)  # rounded: equal logits abound


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # a second one would mostly be waited for
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=DEVICES)
def draw(request):
    return partial(draw_on, request.param)


def draw_on(where, logits, batch, counts, uniforms, *, filters=None) -> list[int]:
    rows = SamplingRows.make(len(batch), torch.device(where))
    for row, params in enumerate(batch):
        rows.set_row(row, params)
    if filters is None:
        filters = any(params.has_filters for params in batch)
    on_device = (torch.from_numpy(np.asarray(x)).to(where) for x in (counts, uniforms))
    logits = torch.from_numpy(logits).to(where)
    return draw_rows(logits, FIRST, rows, *on_device, filters=filters).tolist()


def borders(logits, params, n, uniform) -> float:
    """Return how near the host's draw is to another outcome: in mass, to the next token's; to
    where top-p cuts; to where the sequence stops.
    """
    start, stop = params.allowed[n % len(params.allowed)]
    choice = logits[start - FIRST : stop - FIRST]
    if params.stop_id is not None:
        choice = np.append(choice, logits[params.stop_id - FIRST])
    p = sampler.probabilities(choice, params.temperature, params.top_k, params.top_p)
    distances = [1.0]
    if params.temperature:
        distances.append(np.abs(np.cumsum(p.astype(np.float64)) - uniform).min())
    if params.min_stop_p is not None:
        distances.append(abs(float(p[-1]) - params.min_stop_p))
    if params.top_p is not None:
        warm = np.sort(sampler.softmax(choice).astype(np.float64))[::-1]
        distances.append(np.abs(np.cumsum(warm) - params.top_p).min())
    return min(distances)


def test_tokens_equal_the_hosts_over_random_rules(draw):
    """3,840 rows of any rules. Those with a border nearer than a rounding are left out, counted."""
    rng, compared, left_out, kinds = np.random.default_rng(1), 0, 0, set()
    for _ in range(60):
        batch = [random_params(rng) for _ in range(ROWS)]
        logits, counts = random_logits(rng), rng.integers(0, 50, ROWS)
        uniforms = rng.random(ROWS)
        ours = draw(logits, batch, counts, uniforms)
        for row, params in enumerate(batch):
            n, uniform = int(counts[row]), float(uniforms[row])
            if borders(logits[row], params, n, uniform) < ROUNDING:
                left_out += 1
                continue
            host = sampler.next_token(logits[row], FIRST, params, n, uniform)
            assert ours[row] == (STOPPED if host is None else host)
            compared += 1
            kinds.add((host is None, params.temperature == 0, params.has_filters))
    assert compared > 3800
    assert left_out < 20
    assert len(kinds) == 8  # stopped or not, greedy or not, with filters or without


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), LAWS)
def test_drawn_token_is_the_inverse_of_the_exact_cdf(draw, temperature, top_k, top_p):
    """In float64 the uniform lies between the sums before and with the token, to a rounding."""
    logits = random_logits(np.random.default_rng(2), 1)[0] / 2
    draws = 4000
    params = SamplingParams(temperature, ((FIRST, FIRST + VOCAB),), draws, top_k, top_p)
    uniforms = DrawKey(21, 0, 0).uniforms(draws)
    drawn = draw(np.tile(logits, (draws, 1)), [params] * draws, np.arange(draws), uniforms)
    p = reference(logits, temperature, top_k, top_p)
    cdf, index = np.cumsum(p), np.array(drawn) - FIRST
    assert (cdf[index] - p[index] <= uniforms + ROUNDING).all()
    assert (uniforms <= cdf[index] + ROUNDING).all()
    counts = np.bincount(index, minlength=VOCAB)
    assert (counts[p == 0] == 0).all()
    likely = p * draws > 5  # chi-square wants no rare classes: the rest together are one
    some = np.append(counts[likely], counts[~likely].sum())
    expected = np.append(p[likely], p[~likely].sum()) * draws
    assert stats.chisquare(some[expected > 0], expected[expected > 0]).pvalue > 1e-3


def test_stop_ends_as_often_as_its_probability_says(draw):
    logits, draws = random_logits(np.random.default_rng(3), 1)[0], 5000
    logits[-1] = logits.max() - 1
    stop = FIRST + VOCAB - 1
    params = SamplingParams(0.9, ((FIRST, stop),), draws, stop_id=stop)
    uniforms = DrawKey(22, 0, 0).uniforms(draws)
    drawn = draw(np.tile(logits, (draws, 1)), [params] * draws, np.arange(draws), uniforms)
    assert stats.binomtest(drawn.count(STOPPED), draws, reference(logits, 0.9)[-1]).pvalue > 1e-3


def test_row_does_not_depend_on_the_other_rows(draw):
    """Alone among others, or twice beside itself, at any place: the same token."""
    rng = np.random.default_rng(4)
    for _ in range(8):
        batch, logits = [random_params(rng) for _ in range(ROWS)], random_logits(rng)
        counts, uniforms = rng.integers(0, 50, ROWS), rng.random(ROWS)
        whole = draw(logits, batch, counts, uniforms)
        order = rng.permutation(ROWS)
        moved = draw(logits[order], [batch[i] for i in order], counts[order], uniforms[order])
        assert moved == [whole[i] for i in order]
        others = [random_params(rng) for _ in range(ROWS)]
        others[3] = batch[3]
        strange = random_logits(rng)
        strange[3], strange[5] = logits[3], np.nan
        assert draw(strange, others, counts, uniforms)[3] == whole[3]


def test_row_without_filters_is_the_same_where_a_neighbour_has_them(draw):
    rng = np.random.default_rng(5)
    batch = [SamplingParams(0.8, ((FIRST, FIRST + VOCAB),), 9)] * ROWS
    logits, uniforms = random_logits(rng), rng.random(ROWS)
    plain = draw(logits, batch, np.zeros(ROWS, int), uniforms, filters=False)
    assert draw(logits, batch, np.zeros(ROWS, int), uniforms, filters=True) == plain


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("temperature", [0, 0.7])
@pytest.mark.parametrize("filters", [False, True])
def test_logits_that_are_no_numbers_are_told_apart_from_tokens(draw, bad, temperature, filters):
    """One that is allowed spoils its row, as on the host; one that is not allowed does nothing."""
    params = SamplingParams(temperature, ((FIRST, FIRST + 4),), 9, top_k=3 if filters else None)
    allowed = np.zeros((2, VOCAB), np.float32)
    allowed[0, 1 if bad != -np.inf else slice(0, 4)] = bad
    allowed[1, 4:] = bad
    drawn = draw(allowed, [params] * 2, [0, 0], [0.5, 0.5])
    assert drawn[0] == NO_NUMBER
    assert FIRST <= drawn[1] < FIRST + 4


def test_greedy_takes_the_first_of_equals(draw):
    params = SamplingParams(0, ((FIRST, FIRST + VOCAB),), 9)
    logits = np.zeros((1, VOCAB), np.float32)
    logits[0, [7, 9, 200]] = 5
    assert draw(logits, [params], [0], [0.999]) == [FIRST + 7]


def test_uniform_near_one_never_leaves_the_possible_tokens(draw):
    params = SamplingParams(1.0, ((FIRST, FIRST + 3),), 9, top_k=2)
    logits = np.full((1, VOCAB), 50, np.float32)
    logits[0, :3] = [1.0, 9.0, -50.0]
    assert draw(logits, [params], [0], [np.nextafter(1.0, 0.0)]) == [FIRST + 1]


@pytest.mark.parametrize("temperature", [1e-30, 1e-3, 1e6])
def test_any_temperature_gives_a_token(draw, temperature):
    params = SamplingParams(temperature, ((FIRST, FIRST + VOCAB),), 9)
    logits = random_logits(np.random.default_rng(6), 1)
    host = sampler.next_token(logits[0], FIRST, params, 0, 0.3)
    assert draw(logits, [params], [0], [0.3]) == [host]
