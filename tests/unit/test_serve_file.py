"""serve_config.yaml is read strictly, whatever Serve itself would pass over."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.config import STAGES
from deployments.serve_file import check_serve_config, load_serve_file, read_serve_file
from pipeline.errors import InvalidRequest

FILE = Path(__file__).parents[2] / "serve_config.yaml"


@pytest.fixture
def given() -> dict[str, Any]:
    return copy.deepcopy(load_serve_file(FILE))


def test_the_file_that_ships_is_in_order() -> None:
    schema, config = read_serve_file(FILE)
    assert config.model.name == "nano"
    names = {deployment.name for deployment in schema.applications[0].deployments}
    assert names == {"Ingress", *STAGES}


def test_every_stage_prefers_its_pool_and_takes_any_node(given: dict[str, Any]) -> None:
    for deployment in given["applications"][0]["deployments"]:
        if deployment["name"] in STAGES:
            options = deployment["ray_actor_options"]
            pool = deployment["name"].removesuffix("Stage").lower()
            assert options["label_selector"] == {"bark.stage": pool}
            assert options["fallback_strategy"] == [{"label_selector": {}}]


def change(given: dict[str, Any], path: str, value: Any) -> None:
    *steps, last = path.split(".")
    place: Any = given
    for step in steps:
        place = place[int(step)] if step.isdigit() else place[step]
    place[last] = value


STAGE = "applications.0.deployments.1"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("proxi_location", "EveryNode", "has no setting 'proxi_location'; did you mean proxy_loc"),
        ("http_options.prot", 1, "http_options has no setting 'prot'; did you mean port"),
        ("applications.0.arg", {}, "did you mean args"),
        ("applications.0.name", "other", "must be bark"),
        ("applications.0.args.model.naem", "x", "args.model.naem|model.naem"),
        ("applications.0.args.engine.semantic_slots", 0, "semantic_slots"),
        ("applications.0.args.model.precision", "fp8", "precision"),
        (f"{STAGE}.max_ongoing_request", 3, "did you mean max_ongoing_requests"),
        (f"{STAGE}.name", "SemanticStag", "no deployment is named.*did you mean SemanticStage"),
        (f"{STAGE}.autoscaling_config.min_replica", 1, "did you mean min_replicas"),
        (f"{STAGE}.autoscaling_config.min_replicas", 5, "min_replicas 5 ≤ .* does not hold"),
        (f"{STAGE}.num_replicas", 2, "not both"),
        (f"{STAGE}.ray_actor_options.num_gpu", 1, "did you mean num_gpus"),
        (
            f"{STAGE}.ray_actor_options.label_selector",
            {"bark.stge": "semantic"},
            "no pool has the label 'bark.stge'; did you mean bark.stage",
        ),
        (
            f"{STAGE}.ray_actor_options.label_selector",
            {"bark.stage": "in(semantic, corse)"},
            "bark.stage is one of",
        ),
        (f"{STAGE}.ray_actor_options.fallback_strategy", [{"label_selector": {"a": "b"}}], "'a'"),
        (f"{STAGE}.max_ongoing_requests", "many", "max_ongoing_requests"),
        ("applications.0.args.provenance", {"c2pa_key": "k.pem"}, "give both, or neither"),
    ],
)
def test_a_mistake_is_named(given: dict[str, Any], path: str, value: Any, message: str) -> None:
    change(given, path, value)
    with pytest.raises(InvalidRequest, match=message):
        check_serve_config(given)


def test_a_missing_or_doubled_deployment_is_named(given: dict[str, Any]) -> None:
    deployments = given["applications"][0]["deployments"]
    removed = deployments.pop()
    with pytest.raises(InvalidRequest, match="no deployment CodecStage"):
        check_serve_config(given)
    deployments += [removed, removed]
    with pytest.raises(InvalidRequest, match="listed twice"):
        check_serve_config(given)


@pytest.mark.parametrize("text", ["- a\n", "a: [", "\x00"], ids=["list", "no YAML", "control"])
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(InvalidRequest, match=str(path)):
        read_serve_file(path)
    with pytest.raises(InvalidRequest, match="can not read"):
        load_serve_file(tmp_path / "nowhere.yaml")


def test_anchors_are_plain_yaml() -> None:
    assert yaml.safe_load(FILE.read_text())["applications"][0]["deployments"][2][
        "autoscaling_config"
    ]["max_replicas"]
