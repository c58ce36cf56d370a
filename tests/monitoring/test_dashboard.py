"""The dashboard as Grafana takes it. That it has data: tests/serve/test_metrics.py."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import yaml

from deployments import metrics

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "k8s/monitoring/dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
RULES = yaml.safe_load((ROOT / "k8s/monitoring/alerts.yaml").read_text())
OURS = (*metrics.OF_A_STAGE, *metrics.OF_THE_INGRESS)


def named(text: str) -> set[str]:
    return set(re.findall(r"\bray_\w+", text))


def test_panels_have_ids_of_their_own_and_do_not_overlap():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = itertools.product(
            range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])
        )
        cells = set(cells)
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_every_panel_asks_the_chosen_source_and_says_what_it_is_for():
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", "namespace"}
    for panel in PANELS:
        assert len(panel["description"]) > 20
        assert panel["fieldConfig"]["defaults"]["unit"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0
        for one in (panel, *panel["targets"]):
            assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for expression in EXPRESSIONS:
        assert 'namespace=~"$namespace"' in expression


def test_all_that_is_asked_for_is_exported_and_all_that_is_exported_is_asked_for():
    rules = "\n".join(rule["expr"] for group in RULES["spec"]["groups"] for rule in group["rules"])
    asked = named("\n".join([*EXPRESSIONS, rules]))
    exported = {name: metric for metric in OURS for name in metrics.exported_names(metric)}
    assert {name for name in asked if not name.startswith("ray_serve_")} <= set(exported)
    shown = {exported[name].name for name in asked if name in exported}
    assert shown == {metric.name for metric in OURS}


def test_what_a_panel_or_a_runbook_refers_to_is_there():
    alerts = {r["alert"] for g in RULES["spec"]["groups"] for r in g["rules"] if "alert" in r}
    for panel in PANELS:
        assert set(re.findall(r"\((Bark[A-Z]\w+)\)", panel["description"])) <= alerts
    rows = " ".join(p["title"] for p in DASHBOARD["panels"] if p["type"] == "row")
    for row in re.findall(r"row (\w+)", json.dumps(RULES)):
        assert row in rows
