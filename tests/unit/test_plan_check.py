from copy import deepcopy

import pytest
from bench_report import bench_report

from deployments.plan_check import added_by_service, mean_costs, work_s
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
    assert added_by_service(costs, idle_s=7.0) == pytest.approx(1.0)
