"""The alert rules, by the real promtool: each fires when it should, and is quiet when it should."""

from __future__ import annotations

import copy
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus import promtool

ROOT = Path(__file__).parents[2]
CASES = Path(__file__).with_name("alerts_test.yaml")
RULES = yaml.safe_load((ROOT / "k8s/monitoring/alerts.yaml").read_text())
ALERTS = [rule for group in RULES["spec"]["groups"] for rule in group["rules"] if "alert" in rule]
NAMES = [alert["alert"] for alert in ALERTS]


def run(
    folder: Path, spec: dict[str, Any], only: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the cases, or those of one alert, against these rules.

    promtool compares all annotations: those without templates are left out here.
    """
    cases = yaml.safe_load(CASES.read_text())
    for test in cases["tests"] if only else ():
        wanted = [case for case in test["alert_rule_test"] if case["alertname"] == only]
        test["alert_rule_test"] = wanted
    cases["tests"] = [test for test in cases["tests"] if test["alert_rule_test"]]
    spec = copy.deepcopy(spec)
    for alert in (rule for group in spec["groups"] for rule in group["rules"] if "alert" in rule):
        alert["annotations"] = {"summary": alert["annotations"]["summary"]}
    (folder / "rules.yaml").write_text(yaml.safe_dump(spec))
    (folder / CASES.name).write_text(yaml.safe_dump(cases))
    return promtool("test", "rules", CASES.name, cwd=folder)


def test_the_object_is_one_that_the_operator_takes(tmp_path):
    assert (RULES["apiVersion"], RULES["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(RULES["spec"]))
    done = promtool("check", "rules", "--lint-fatal", "rules.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_case_comes_out_as_it_says(tmp_path):
    done = run(tmp_path, RULES["spec"])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_every_alert_has_a_firing_and_a_quiet_case_that_notice(tmp_path, name):
    """An alert that never fires fails its cases, and so does one that always does."""
    for expression in ("vector(1) < 0", "vector(1)"):
        spec = copy.deepcopy(RULES["spec"])
        for rule in (rule for group in spec["groups"] for rule in group["rules"]):
            if rule.get("alert") == name:
                rule["expr"] = expression
                rule.pop("for")
        done = run(tmp_path, spec, name)
        assert done.returncode == 1, f"nobody noticed that {name} is {expression}"
        assert f"alertname: {name}" in done.stdout + done.stderr
    cases = [
        case
        for test in yaml.safe_load(CASES.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == name
    ]
    assert {bool(case["exp_alerts"]) for case in cases} == {True, False}


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_every_alert_says_what_is_wrong_and_what_to_do(alert):
    assert alert["labels"]["severity"] in ("critical", "warning")
    told = alert["annotations"]
    assert set(told) == {"summary", "description", "runbook"}
    assert all(len(text) > 25 for text in told.values())
    assert "{{" not in told["description"] + told["runbook"]
    assert alert["for"]
    for other in re.findall(r"Bark[A-Z]\w+", told["runbook"] + told["description"]):
        assert other in NAMES
