"""The simulation beside what queueing theory knows exactly, and the sums that must come out."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from random import Random
from statistics import fmean, stdev

import pytest

from pipeline.capacity.simulation import Arrival, Outcome, Pool, Simulation, poisson

RUNS = 12
Draw = Callable[[Random], float]


def exponential(random: Random) -> float:
    return random.expovariate(1.0)


def mostly_short(random: Random) -> float:
    return 6.0 if random.random() < 0.1 else 4 / 9  # mean 1, variance 2.8


def requests(rate: float, draw: Draw, count: int, seed: int) -> Iterator[Arrival]:
    random, at_s = Random(seed), 0.0
    for _ in range(count):
        at_s += random.expovariate(rate)
        yield Arrival(at_s, ((draw(random),),))


def alone(batch: int) -> float:
    """Slow down nobody: servers of their own."""
    return 1.0


def in_turn(batch: int) -> float:
    return float(batch)


def mean_s(outcome: Outcome) -> float:
    return fmean(answer.total_s for answer in outcome.answers)


def assert_mean(expected: float, once: Callable[[int], float]) -> None:
    """Check a mean to within four standard errors of independent seeded runs."""
    means = [once(seed) for seed in range(RUNS)]
    error = stdev(means) / math.sqrt(RUNS)
    assert error < 0.05 * expected
    assert fmean(means) == pytest.approx(expected, abs=4 * error)


def single_pool(pool: Pool, rate: float, draw: Draw) -> Callable[[int], float]:
    def once(seed: int) -> float:
        arrivals = requests(rate, draw, 3000, seed)
        return mean_s(Simulation([pool], Random(seed + 1000)).run(arrivals, skip=500))

    return once


def erlang_c(servers: int, offered: float) -> float:
    """Return the part of the requests that have to wait."""
    free = sum(offered**k / math.factorial(k) for k in range(servers))
    full = offered**servers / math.factorial(servers) * servers / (servers - offered)
    return full / (free + full)


def test_one_server_in_order_is_mm1() -> None:
    pool = Pool("a", 1, in_turn, slots=1)
    assert_mean(1 / (1 - 0.6), single_pool(pool, 0.6, exponential))


def test_one_server_in_order_waits_by_pollaczek_and_khinchine() -> None:
    second_moment = 1 + 2.7778
    expected = 1 + 0.5 * second_moment / (2 * (1 - 0.5))
    pool = Pool("a", 1, in_turn, slots=1)
    assert_mean(expected, single_pool(pool, 0.5, mostly_short))


@pytest.mark.parametrize("draw", [exponential, mostly_short])
def test_turns_cost_by_load_whatever_the_distribution(draw: Draw) -> None:
    assert_mean(1 / (1 - 0.6), single_pool(Pool("a", 1, in_turn), 0.6, draw))


def test_slots_that_do_not_slow_down_are_mmc() -> None:
    expected = 1 + erlang_c(3, 2.1) / (3 - 2.1)
    assert_mean(expected, single_pool(Pool("a", 1, alone, slots=3), 2.1, exponential))


def test_pools_in_line_add_up() -> None:
    """Jackson: each of a line of M/M/1 queues is as if it stood alone."""

    def once(seed: int) -> float:
        random, at_s, arrivals = Random(seed), 0.0, []
        for _ in range(3000):
            at_s += random.expovariate(0.5)
            work = (random.expovariate(1.0), random.expovariate(1.25), random.expovariate(1.0))
            arrivals.append(Arrival(at_s, (work,)))
        line = [Pool(name, 1, in_turn, slots=1) for name in "abc"]
        return mean_s(Simulation(line, Random(seed + 1000)).run(arrivals, skip=500))

    assert_mean(1 / (1 - 0.5) + 1 / (1.25 - 0.5) + 1 / (1 - 0.5), once)


def test_batch_that_shares_its_steps_is_the_birth_and_death_process() -> None:
    """With n at work each goes at 1/(1 + 0.25(n - 1)); at most four, others wait."""

    def slowdown(batch: int) -> float:
        return 1 + 0.25 * (batch - 1)

    rate, weights = 1.6, [1.0]
    for n in range(1, 400):
        together = min(n, 4)
        weights.append(weights[-1] * rate * slowdown(together) / together)
    ongoing = sum(n * weight for n, weight in enumerate(weights)) / sum(weights)
    pool = Pool("a", 1, slowdown, slots=4)
    assert_mean(ongoing / rate, single_pool(pool, rate, exponential))


def test_two_choices_come_near_to_the_law_of_many_queues() -> None:
    """Mitzenmacher: with two choices, a part load^(2^i - 1) of many queues is i long or longer."""
    load = 0.8
    expected = sum(load ** (2**i - 1) for i in range(1, 12)) / load

    def once(seed: int) -> float:
        pool = Pool("a", 120, in_turn, slots=1)
        drawn = requests(load * 120, exponential, 6000, seed)
        return mean_s(Simulation([pool], Random(seed + 1000)).run(drawn, skip=2500))

    means = [once(seed) for seed in range(4)]
    assert fmean(means) == pytest.approx(expected, rel=0.05)


def test_stages_that_share_a_device_are_one_server_in_turn() -> None:
    """Two pools that are never both needed by one request: together they are one M/G/1-PS."""

    def once(seed: int) -> float:
        random, at_s, arrivals = Random(seed), 0.0, []
        for _ in range(3000):
            at_s += random.expovariate(0.6)
            work = random.expovariate(1.0)
            arrivals.append(Arrival(at_s, ((work, 0.0) if random.random() < 0.5 else (0.0, work),)))
        pools = [Pool(name, 1, in_turn, slots=1, shares=True) for name in "ab"]
        return mean_s(Simulation(pools, Random(seed + 1000)).run(arrivals, skip=500))

    # between M/M/1 in turn and in order, which have the same mean
    assert_mean(1 / (1 - 0.6), once)


@pytest.mark.parametrize(
    ("demand", "expected_s"), [(1.0, 2.0), (0.75, 1.5), (0.5, 1.0), (0.25, 1.0)]
)
def test_shared_device_is_slower_only_by_what_is_asked_too_much(
    demand: float, expected_s: float
) -> None:
    pools = [Pool(name, 1, in_turn, shares=True, demand=demand) for name in "ab"]
    at_once = [Arrival(0.0, ((1.0, 0.0),)), Arrival(0.0, ((0.0, 1.0),))]
    found = Simulation(pools, Random(1)).run(at_once)
    assert [answer.total_s for answer in found.answers] == pytest.approx([expected_s] * 2)


@pytest.mark.parametrize(
    ("demand", "expected_s"),
    [
        (1.0, [4 / 3, 2.0]),  # at three quarters and one; then the other alone
        (0.5, [1.0, 1.5]),  # it needs half; the other half is for the other
    ],
)
def test_weights_share_a_device_and_what_is_left_goes_to_the_others(
    demand: float, expected_s: list[float]
) -> None:
    heavy = Pool("heavy", 1, in_turn, shares=True, demand=demand, weight=3.0)
    pools = [heavy, Pool("light", 1, in_turn, shares=True)]
    at_once = [Arrival(0.0, ((1.0, 0.0),)), Arrival(0.0, ((0.0, 1.0),))]
    found = Simulation(pools, Random(1)).run(at_once)
    assert [answer.total_s for answer in found.answers] == pytest.approx(expected_s)


@pytest.mark.parametrize(("apart_s", "expected_s"), [(0.0, [2.4, 2.4]), (3.0, [1.0, 1.0])])
def test_steps_lose_time_to_others_only_while_both_work(
    apart_s: float, expected_s: list[float]
) -> None:
    pools = [Pool(name, 1, in_turn, shares=True, lost=0.2) for name in "ab"]
    arrivals = [Arrival(0.0, ((1.0, 0.0),)), Arrival(apart_s, ((0.0, 1.0),))]
    found = Simulation(pools, Random(1)).run(arrivals)
    assert [answer.total_s for answer in found.answers] == pytest.approx(expected_s)


# ── sums ─────────────────────────────────────────────────────────────────────────────────────────
KINDS = [((0.2, 1.0, 0.3, 0.1),), ((0.2, 1.0, 0.3, 0.1),) * 3]


def four_pools(times: int = 1, *, shares: bool = False) -> list[Pool]:
    def shared_steps(batch: int) -> float:
        return 1 + 0.3 * (batch - 1)

    return [
        Pool("semantic", times, shared_steps, 4, shares=shares),
        Pool("coarse", 3 * times, shared_steps, 4, shares=shares),
        Pool("fine", 2 * times, in_turn, shares=shares),
        Pool("codec", times, in_turn, shares=shares),
    ]


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("first_alone", [False, True])
def test_every_request_ends_once_and_all_its_work_is_done(shares: bool, first_alone: bool) -> None:
    source = poisson(1.0, KINDS, Random(1), first_alone=first_alone)
    arrivals = [next(source) for _ in range(800)]
    found = Simulation(four_pools(shares=shares), Random(2)).run(arrivals)
    assert [answer.at_s for answer in found.answers] == [arrival.at_s for arrival in arrivals]
    for index, use in enumerate(found.pools.values()):
        asked = sum(segment[index] for arrival in arrivals for segment in arrival.segments)
        assert use.work_s == pytest.approx(asked)
    for arrival, answer in zip(arrivals, found.answers, strict=True):
        alone_s = sum(arrival.segments[0])
        rounds = 2 if first_alone and len(arrival.segments) > 1 else 1
        assert answer.first_s >= alone_s - 1e-9
        assert answer.total_s >= max(rounds * alone_s - 1e-9, answer.first_s)


def test_device_in_turn_is_busy_for_exactly_its_work() -> None:
    arrivals = list(requests(0.7, exponential, 500, 1))
    found = Simulation([Pool("a", 1, in_turn)], Random(1)).run(arrivals)
    end_s = max(answer.at_s + answer.total_s for answer in found.answers)
    busy_s = found.pools["a"].busy * (end_s - arrivals[0].at_s)
    assert busy_s == pytest.approx(found.pools["a"].work_s)


def test_little_s_law_holds() -> None:
    arrivals = list(requests(0.7, exponential, 2000, 1))
    found = Simulation([Pool("a", 1, in_turn)], Random(1)).run(arrivals)
    total_s = sum(answer.total_s for answer in found.answers)
    end_s = max(answer.at_s + answer.total_s for answer in found.answers)
    assert found.pools["a"].ongoing * (end_s - arrivals[0].at_s) == pytest.approx(total_s)


def test_request_alone_takes_its_work_and_streams_its_first_segment_first() -> None:
    (kind,) = KINDS[1:]
    whole, streamed = (
        Simulation(four_pools(3), Random(1)).run([Arrival(5.0, kind[:1] * 2, first_alone)])
        for first_alone in (False, True)
    )
    assert streamed.answers[0].first_s == pytest.approx(1.6)
    assert streamed.answers[0].total_s >= 3.2 - 1e-9
    assert whole.answers[0].total_s < streamed.answers[0].total_s


def test_same_seed_gives_the_same_run() -> None:
    def once() -> Outcome:
        source = poisson(1.0, KINDS, Random(1))
        return Simulation(four_pools(), Random(2)).run(source, skip=50, count=300)

    assert once() == once()


def test_measured_requests_are_those_after_the_warm_up_and_later_ones_load_on() -> None:
    source = poisson(1.0, KINDS, Random(1))
    all_arrivals = [next(source) for _ in range(600)]
    found = Simulation(four_pools(), Random(2)).run(iter(all_arrivals), skip=100, count=300)
    assert [a.at_s for a in found.answers] == [a.at_s for a in all_arrivals[100:400]]


def test_more_replicas_are_never_worse_beyond_noise() -> None:
    p95 = [
        Simulation(four_pools(times), Random(2))
        .run(poisson(1.6, KINDS, Random(1)), skip=500, count=2500)
        .quantile(0.95)
        for times in (1, 2, 3, 4)
    ]
    assert all(more <= fewer * 1.03 for fewer, more in pairwise(p95))
    assert p95[-1] < p95[0] / 1.5
