import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from bench_report import bench_report
from typer.testing import CliRunner

from deployments.serve_file import check_serve_config, load_serve_file
from pipeline.capacity.plan import Demand, Planner
from pipeline.capacity.stage_costs import STAGES, costs_of
from pipeline.cli.app import app
from pipeline.errors import InvalidRequest

COSTS = costs_of(bench_report())
IDLE_S = 1.4 + 8.0 + 2.0 + 0.5 + 0.2  # the stages alone, and what the service adds
SERVE_CONFIG = Path(__file__).parents[2] / "serve_config.yaml"


def planner(**changed: Any) -> Planner:
    layout = changed.pop("layout", "pools")
    demand = Demand(**{"rps": 0.5, "audio_s": (10.0,), "p95_s": 40.0} | changed)
    return Planner(COSTS, demand, layout=layout, requests=2000)


def test_found_replicas_do_and_one_less_of_any_does_not() -> None:
    searching = planner(p95_s=24.0)
    found = searching.search()
    assert found.meets
    assert found.seconds(0.5) < found.seconds(0.95) <= 24.0 < found.seconds(0.99)
    for stage, count in found.replicas.items():
        if count == 1:
            continue
        load = found.loads[stage] * count / (count - 1)
        if load < found.demand.max_load:  # else it is the load that forbids one less
            fewer = searching.try_out(found.replicas | {stage: count - 1})
            # the search's own runs are of other requests than this one: hence a little room
            assert fewer.seconds(0.95) > 24.0 * 0.95


def test_no_pool_works_beyond_the_allowed_load() -> None:
    found = planner(rps=2.0, p95_s=500.0, max_load=0.7).search()
    assert all(load <= 0.7 for load in found.loads.values())
    # 2 a second of 8 s each, 8 at once in the time of 5
    assert found.replicas["coarse"] == 15
    assert found.loads["coarse"] == pytest.approx(2 * 8 / (8 / 5) / 15)


def test_less_time_and_more_requests_need_more_devices() -> None:
    patient, hasty = (planner(p95_s=seconds).search() for seconds in (60.0, 16.0))
    busy = planner(rps=1.5, p95_s=60.0).search()
    assert patient.devices < hasty.devices
    assert patient.devices < busy.devices


def test_thousands_of_devices_are_planned_in_proportion() -> None:
    small, large = (planner(rps=rps, p95_s=45.0).search() for rps in (5.0, 150.0))
    assert large.meets
    assert large.devices > 1000
    assert large.devices == pytest.approx(30 * small.devices, rel=0.15)


def test_same_seed_gives_the_same_plan() -> None:
    assert planner().search() == planner().search()


def test_less_than_a_request_alone_takes_is_refused_with_the_least_possible() -> None:
    with pytest.raises(InvalidRequest, match=r"alone, with every replica idle, takes 12\.1 s"):
        planner(p95_s=12.0).search()
    with pytest.raises(InvalidRequest, match=r"p95 of the first sound can not be 3 s"):
        planner(first_audio_p95_s=3.0).search()


def test_streamed_text_of_several_segments_takes_two_rounds_at_least() -> None:
    streamed, job = (planner(audio_s=(30.0,), is_streamed=s) for s in (True, False))
    assert streamed.idle_s == pytest.approx([2 * (IDLE_S - 0.2) + 0.2])
    assert job.idle_s == pytest.approx([IDLE_S])
    assert streamed.idle_first_s == pytest.approx([IDLE_S])


def test_long_text_is_split_as_evenly_as_the_service_splits_it() -> None:
    demand = Demand(rps=1, audio_s=(1,), p95_s=1)
    counts = [demand.num_segments(seconds) for seconds in (0.1, 13, 13.1, 26, 60)]
    assert counts == [1, 1, 2, 2, 5]


def test_first_sound_in_time_can_need_more_than_the_whole_in_time() -> None:
    whole = planner(rps=0.2, audio_s=(30.0,), p95_s=80.0).search()
    heard = planner(rps=0.2, audio_s=(30.0,), p95_s=80.0, first_audio_p95_s=18.0).search()
    assert whole.seconds(0.95, first=True) > 18.0
    assert heard.seconds(0.95, first=True) <= 18.0
    assert heard.devices > whole.devices


def test_stages_together_on_a_device_are_equally_many() -> None:
    found = planner(layout="together", p95_s=60.0).search()
    assert found.meets
    assert set(found.replicas.values()) == {found.devices}
    assert found.device_hours_per_audio_hour == found.devices / (0.5 * 10.0)


def test_too_few_replicas_are_refused_where_the_queue_would_grow_for_ever() -> None:
    with pytest.raises(InvalidRequest, match=r"2 coarse replicas can not keep up.* 1\.25 times"):
        planner().try_out(dict.fromkeys(STAGES, 2))


# ── the command ──────────────────────────────────────────────────────────────────────────────────
def run(folder: Path, *words: str, code: int = 0) -> str:
    costs = folder / "costs.json"
    costs.write_text(json.dumps(bench_report()))
    given = ["plan", "--rps", "0.5", "--audio-seconds", "10", "--costs", str(costs)]
    done = CliRunner().invoke(app, [*given, "--requests", "1000", *words])
    if isinstance(done.exception, InvalidRequest):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.stdout


def test_settings_printed_fit_into_the_serve_config(tmp_path: Path) -> None:
    shown = run(tmp_path, "--p95", "40", "--burst", "2")
    printed = yaml.safe_load(shown.partition("under the application:")[2])
    config = load_serve_file(SERVE_CONFIG)
    application = config["applications"][0]
    application["args"]["engine"] |= printed["args"]["engine"]
    planned = {deployment["name"]: deployment for deployment in printed["deployments"]}
    for deployment in application["deployments"]:
        deployment["autoscaling_config"] = {
            **deployment["autoscaling_config"],
            **planned.pop(deployment["name"])["autoscaling_config"],
        }
    assert not planned
    schema, app_config = check_serve_config(config)
    assert app_config.engine.coarse_slots == 8
    found = json.loads(run(tmp_path, "--p95", "40", "--burst", "2", "--json"))
    coarse = next(d for d in schema.applications[0].deployments if d.name == "CoarseStage")
    scaling = coarse.autoscaling_config
    assert scaling["min_replicas"] == found["replicas"]["coarse"] >= 2
    assert scaling["max_replicas"] == 2 * scaling["min_replicas"]


def test_json_says_times_hours_and_money(tmp_path: Path) -> None:
    found = json.loads(run(tmp_path, "--p95", "40", "--price", "3", "--json"))
    devices = sum(found["replicas"].values())
    assert found["device_hours"] == {"an_hour": devices, "an_audio_hour": devices / 5}
    assert found["price"] == pytest.approx({"an_hour": 3 * devices, "an_audio_hour": 0.6 * devices})
    assert found["total_s"]["p50"] < found["total_s"]["p95"] <= 40
    assert found["requests_simulated"] >= 1000


def test_given_replicas_that_are_too_slow_are_shown_and_fail(tmp_path: Path) -> None:
    few = "semantic=1,coarse=3,fine=2,codec=1"
    shown = run(tmp_path, "--p95", "13", "--replicas", few, code=1)
    assert "not answered in time" in shown


@pytest.mark.parametrize("given", ["coarse=3", "semantic=1,coarse=0,fine=1,codec=1", "x", ""])
def test_wrong_replicas_are_refused(tmp_path: Path, given: str) -> None:
    with pytest.raises(InvalidRequest, match="semantic=1,coarse=1,fine=1,codec=1"):
        run(tmp_path, "--p95", "40", "--replicas", given)


def test_help_shows_examples() -> None:
    shown = CliRunner().invoke(app, ["plan", "--help"])
    assert shown.exit_code == 0
    assert "bark-serve plan --rps 40 --audio-seconds 10 --p95 30" in shown.stdout
