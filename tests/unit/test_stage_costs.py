import json
import re
from pathlib import Path

import pytest
from bench_report import bench_report

from pipeline.capacity.stage_costs import StageCost, costs_of, read_costs
from pipeline.errors import InvalidRequest


def test_measured_batches_come_back_as_they_were_measured() -> None:
    coarse = costs_of(bench_report()).stages["coarse"]
    assert (coarse.slowdown(1), coarse.slowdown(8)) == (1.0, 5.0)
    assert coarse.slots == 8
    assert coarse.best_gain() == 8 / 5


def test_between_two_batches_a_row_costs_the_same() -> None:
    coarse = costs_of(bench_report()).stages["coarse"]
    steps = [coarse.slowdown(n + 1) - coarse.slowdown(n) for n in range(1, 8)]
    assert steps == pytest.approx([4 / 7] * 7)


def test_jobs_in_turn_have_no_slots_and_gain_nothing() -> None:
    fine = costs_of(bench_report()).stages["fine"]
    assert fine.slots is None
    assert [fine.slowdown(n) for n in (1, 2, 8, 40)] == pytest.approx([1, 2, 8, 40])
    assert fine.best_gain() == pytest.approx(1.0)


def test_noise_makes_no_batch_faster_than_a_smaller_one() -> None:
    noisy = StageCost(2.0, ((1, 2.0), (2, 1.9), (4, 3.0), (8, 2.8)))
    speeds = [noisy.slowdown(n) for n in range(1, 10)]
    assert speeds == sorted(speeds)
    assert speeds[0] == 1.0


def test_shorter_clip_costs_less_but_for_what_is_fixed() -> None:
    costs = costs_of(bench_report())
    assert costs.work_s(10.0) == pytest.approx((1.4, 8.0, 2.0, 0.5))
    # the prefill stays; a fine window costs the same however little is in it
    assert costs.work_s(5.0) == pytest.approx((0.1 + 1.3 / 2, 4.0, 2.0, 0.25))


def test_windows_of_the_fine_model_are_paid_whole() -> None:
    report = bench_report()
    report["settings"]["work"]["fine_windows"] = 4
    fine = [costs_of(report).work_s(seconds)[2] for seconds in (10, 7.5, 7.4, 5.1, 2.5, 0.1)]
    assert fine == pytest.approx([2.0, 1.5, 1.5, 1.5, 0.5, 0.5])


@pytest.mark.parametrize(
    ("device", "demand"), [("cpu-x", 0.875), ("cuda-x", 0.75)], ids=["one thread of two", "none"]
)
def test_host_code_leaves_the_device_to_other_stages(device: str, demand: float) -> None:
    report = bench_report()
    report["hardware"]["device"] = device
    report["concurrency"]["8"]["device_s"] |= {"coarse": 30.0, "codec": 5.0}
    stages = costs_of(report).stages
    assert stages["coarse"].demand == demand
    assert stages["fine"].demand == stages["codec"].demand == 1.0


def test_stages_are_as_much_slower_in_the_service_as_a_request_alone_says() -> None:
    report = bench_report()
    bare = costs_of(report | {"serve": None})
    assert bare.added_s == 0.0
    # 10 s in one process; in the service 13.5 s, of which 0.5 s between its processes
    report["serve"] = {"idle_s": 13.5, "idle_added_s": 3.5, "idle_between_s": 0.5}
    served = costs_of(report)
    assert served.added_s == 0.5
    assert served.alone_s == pytest.approx(1.3 * bare.alone_s)
    for stage, cost in served.stages.items():
        assert cost.together[-1][1] == pytest.approx(1.3 * bare.stages[stage].together[-1][1])
        assert cost.slowdown(8) == pytest.approx(bare.stages[stage].slowdown(8))
    # no service makes stages faster: that is noise
    report["serve"] = {"idle_s": 10.1, "idle_added_s": -0.4, "idle_between_s": 0.1}
    assert costs_of(report).alone_s == pytest.approx(bare.alone_s)


def test_decode_steps_lose_a_little_to_other_stages_on_a_cpu_and_a_batch_once() -> None:
    report = bench_report()
    stages = costs_of(report).stages
    # 1500 steps in 8 s alone, 0.5 ms each
    assert stages["coarse"].lost == pytest.approx(1500 * 0.0005 / 8.0)
    assert stages["fine"].lost == stages["codec"].lost == 0.0
    assert stages["coarse"].best_gain(disturbed=True) == pytest.approx(8 / (5 + 0.09375))
    report["hardware"]["device"] = "cuda-x"
    assert all(cost.lost == 0.0 for cost in costs_of(report).stages.values())


def test_steps_that_take_longer_do_so_once_for_a_whole_batch() -> None:
    costs = costs_of(bench_report())
    longer = costs.longer(1.999)  # 499 and 1500 steps, so a millisecond each
    for stage, added_s in (("semantic", 0.499), ("coarse", 1.5), ("fine", 0.0), ("codec", 0.0)):
        then, now = costs.stages[stage], longer.stages[stage]
        assert now.alone_s == pytest.approx(then.alone_s + added_s)
        for (size, then_s), (same, now_s) in zip(then.together, now.together, strict=True):
            assert (same, now_s) == (size, pytest.approx(then_s + added_s))
    assert costs.longer(-100.0).stages["coarse"].alone_s == pytest.approx(4.0)  # half, no less


def test_where_no_threads_meet_all_stages_are_as_much_longer() -> None:
    report = bench_report()
    report["hardware"]["device"] = "cuda-x"
    costs = costs_of(report)
    longer = costs.longer(costs.alone_s / 2)
    for stage, cost in longer.stages.items():
        assert cost.alone_s == pytest.approx(1.5 * costs.stages[stage].alone_s)
        assert cost.slowdown(8) == pytest.approx(costs.stages[stage].slowdown(8))


def test_longer_clip_than_measured_is_refused_with_the_command_that_measures_it() -> None:
    with pytest.raises(InvalidRequest, match=r"bark-serve bench --seconds 12\.5 ") as refused:
        costs_of(bench_report()).work_s(12.45)
    assert "clips of 10 s were measured" in refused.value.message


@pytest.mark.parametrize(
    ("levels", "message"),
    [([], "has no requests at once"), ([1], "has 1 requests"), ([8], "has 8 requests")],
    ids=["none", "alone", "together"],
)
def test_missing_level_is_named_with_the_command(levels: list[int], message: str) -> None:
    report = bench_report()
    report["concurrency"] = {str(n): report["concurrency"][str(n)] for n in levels}
    with pytest.raises(InvalidRequest, match=message) as refused:
        costs_of(report)
    assert "bench --seconds 10 --concurrency 1 --concurrency 8" in refused.value.message


def test_more_slots_than_measured_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"--concurrency 1 --concurrency 16 "):
        costs_of(bench_report(), slots=16)
    assert costs_of(bench_report(), slots=4).stages["semantic"].slots == 4


def test_report_of_an_older_bench_is_refused() -> None:
    report = bench_report()
    del report["concurrency"]["8"]["stage_s"]
    with pytest.raises(InvalidRequest, match="older version"):
        costs_of(report)


def test_file_may_be_all_that_bench_printed(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(f"a table\n\n{json.dumps(bench_report())}\n")
    assert read_costs(path) == costs_of(bench_report())


@pytest.mark.parametrize(
    "content", [None, "", "a table", "[1]", "{}", '{"settings": {}, "concurrency": 3}']
)
def test_what_is_no_report_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "costs.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InvalidRequest, match=re.escape(str(path))) as refused:
        read_costs(path)
    assert "run bark-serve bench" in refused.value.message
