from copy import deepcopy
from dataclasses import replace

import pytest
from bench_report import bench_report

from deployments.check_service import Sent
from deployments.plan_check import Round, compare, mean_costs, work_s
from pipeline.capacity.stage_costs import costs_of


def test_costs_lie_between_the_two_benches() -> None:
    before = bench_report()
    after = deepcopy(before)
    most = max(map(int, before["concurrency"]))
    for level in before["concurrency"].values():
        level["stage_s"] = dict.fromkeys(level["stage_s"], 1.0)
    for level in after["concurrency"].values():
        level["stage_s"] = dict.fromkeys(level["stage_s"], 2.0)
    assert work_s(after, most) / work_s(before, most) == 2.0

    costs = mean_costs(costs_of(before), costs_of(after))
    for cost in costs.stages.values():
        assert cost.alone_s == 1.5
        assert [seconds for _, seconds in cost.together] == [1.5] * len(cost.together)
        assert cost.slowdown(most) == 1.0


def test_each_round_is_simulated_at_its_own_speed() -> None:
    costs = replace(costs_of(bench_report()), added_s=0.0)
    bare_s = costs.alone_s
    speeds = (1.0, 2.0)
    rounds = [
        Round(0.4, [Sent(at_s, bare_s * slower) for at_s in (0.0, 500.0)], bare_s * slower)
        for slower in speeds
    ]
    found = compare(rounds, costs)
    assert found["requests"] == 4
    assert found["measured"]["throughput"] == pytest.approx(4 / (1000 + 3 * bare_s))
    for ratio in found["ratio"].values():  # each alone, so there is nothing to wait for
        assert ratio == pytest.approx(1.0, rel=1e-3)
