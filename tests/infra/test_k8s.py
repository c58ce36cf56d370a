"""k8s/: every overlay builds, every object is what its schema says, and files agree.

What needs an API server (admission, CEL rules, defaults) is not shown here; k8s/README.md says how.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from manifests import Object, build, named, pods
from rules import disagreements, problems
from schemas import need_crds, wrong_with
from tools import ROOT, run, tools

from deployments.app import build as build_app
from deployments.config import INGRESS, STAGES
from deployments.serve_file import check_serve_config
from pipeline.cli.app import app as cli
from pipeline.models.checkpoint import open_checkpoint
from pipeline.models.locate import locate

K8S = ROOT / "k8s"
PRODUCTION = K8S / "overlays" / "production"
VALUES = json.loads((PRODUCTION / "values.json").read_text())
OVERLAYS = {
    "local": None,
    "production": VALUES,
    "production/bulk": VALUES,
    "production/nightly": VALUES,
}


@pytest.fixture(scope="module")
def built() -> dict[str, list[Object]]:
    return {name: build(K8S / "overlays" / name) for name in OVERLAYS}


@pytest.fixture
def production(built: dict[str, list[Object]]) -> list[Object]:
    """Return the objects of production, to change as one likes."""
    return copy.deepcopy(built["production"])


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_in_order(built: dict[str, list[Object]], name: str) -> None:
    assert problems(built[name], OVERLAYS[name]) == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_kuberays_objects_are_what_its_crds_say(built: dict[str, list[Object]], name: str) -> None:
    need_crds()
    ours = [item for item in built[name] if item["apiVersion"] == "ray.io/v1"]
    assert ours
    assert [said for item in ours for said in wrong_with(item)] == []


@pytest.mark.parametrize("option", ["incremental-upgrade", "webhooks"])
def test_an_option_can_be_taken(tmp_path: Path, option: str) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    overlay = tmp_path / "k8s" / "overlays" / "production"
    file = overlay / "kustomization.yaml"
    text = file.read_text()
    file.write_text(text.replace("components:", f"components:\n  - ../../components/{option}", 1))
    said = problems(build(overlay), VALUES)
    # the one policy that opens a way out is seen, and is an option for that very reason
    assert [s for s in said if "webhooks" not in s] == []
    assert any("a way out that nobody decided on" in s for s in said) == (option == "webhooks")


def test_every_file_says_what_it_is_for() -> None:
    for file in K8S.rglob("*.yaml"):
        assert file.read_text().startswith("#"), f"{file}: say what it optimises, and why"


# ── one source for each fact ─────────────────────────────────────────────────────────────────────
def rendering() -> Any:
    spec = importlib.util.spec_from_file_location("render", K8S / "render.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("overlay", ["local", "production"])
def test_what_is_made_is_what_lies_there(overlay: str) -> None:
    """`make k8s` would change nothing; so nobody changed what it makes, or forgot to run it."""
    for file, text in rendering().rendered(K8S / "overlays" / overlay).items():
        assert file.read_text() == text, f"{file}: run `make k8s`"


def test_what_terraform_tells_is_taken_in(tmp_path: Path) -> None:
    """As `make k8s-values` does, after a pool has grown."""
    shutil.copytree(K8S, tmp_path / "k8s")
    shutil.copy(ROOT / "serve_config.yaml", tmp_path)
    told = copy.deepcopy(VALUES)
    told["pools"]["coarse"]["max_nodes"] = 7
    told["buckets"]["outputs"] = "elsewhere-outputs"
    document = json.dumps({"k8s_values": {"value": told}, "cluster_name": {"value": "bark"}})
    run(sys.executable, tmp_path / "k8s" / "render.py", "-", input=document)
    objects = build(tmp_path / "k8s" / "overlays" / "production")
    assert problems(objects, told) == []
    service = named(objects, "RayService")["spec"]
    groups = {g["groupName"]: g for g in service["rayClusterConfig"]["workerGroupSpecs"]}
    assert groups["coarse"]["maxReplicas"] == 7
    args = yaml.safe_load(service["serveConfigV2"])["applications"][0]["args"]
    assert args["store"]["url"] == "s3://elsewhere-outputs"


@pytest.mark.parametrize("overlay", ["local", "production"])
def test_serve_config_in_the_cluster_is_the_file_and_loads_in_the_app(
    built: dict[str, list[Object]], overlay: str
) -> None:
    embedded = named(built[overlay], "RayService")["spec"]["serveConfigV2"]
    assert embedded == (K8S / "overlays" / overlay / "serve_config.yaml").read_text()
    schema, config = check_serve_config(yaml.safe_load(embedded))
    assert {d.name for d in schema.applications[0].deployments} == {INGRESS, *STAGES}
    assert build_app(config) is not None
    # what the overlay does not change is the root's
    root = yaml.safe_load((ROOT / "serve_config.yaml").read_text())["applications"][0]
    ours = yaml.safe_load(embedded)["applications"][0]
    assert ours["args"]["voices"] == root["args"]["voices"]
    assert ours["import_path"] == root["import_path"]


def test_a_patch_for_no_deployment_is_refused() -> None:
    merge = rendering().merge
    base = {"deployments": [{"name": "Ingress", "a": 1, "b": 2}]}
    patched = merge(base, {"deployments": [{"name": "Ingress", "a": 3, "b": None}]})
    assert patched == {"deployments": [{"name": "Ingress", "a": 3}]}
    with pytest.raises(ValueError, match="nothing is named Ingres"):
        merge(base, {"deployments": [{"name": "Ingres"}]})


def test_the_digest_that_nodes_check_is_that_of_the_model_that_ships() -> None:
    model = json.loads((PRODUCTION / "model.json").read_text())
    assert model["prefix"] == "nano"
    assert model["digest"] == open_checkpoint(locate("nano")).digest
    for file in (K8S / "base" / "rayservice.yaml", K8S / "bulk" / "rayjob.yaml"):
        assert model["digest"] in file.read_text(), file


def test_versions_agree(built: dict[str, list[Object]]) -> None:
    project = (ROOT / "pyproject.toml").read_text()
    model = json.loads((PRODUCTION / "model.json").read_text())
    assert f'version = "{model["image_tag"]}"' in project
    cluster = named(built["production"], "RayService")["spec"]["rayClusterConfig"]
    assert f"ray[serve]=={cluster['rayVersion']}" in project
    terraform = (ROOT / "infra" / "terraform" / "variables.tf").read_text()
    assert 'kuberay-helm", version = "1.7.0"' in terraform


def test_alerts_and_dashboard_are_deployed(built: dict[str, list[Object]]) -> None:
    assert "PrometheusRule" in {o["kind"] for o in built["production"]}
    maps = [o for o in built["production"] if o["kind"] == "ConfigMap"]
    assert any("dashboard.json" in o["data"] for o in maps)


def test_alert_rules_are_what_prometheus_takes(
    built: dict[str, list[Object]], tmp_path: Path
) -> None:
    rules = [o for o in built["production"] if o["kind"] == "PrometheusRule"]
    assert rules
    if shutil.which("promtool") is None:
        pytest.fail("needs promtool, Prometheus' own checker: apt install prometheus")
    for number, item in enumerate(rules):
        file = tmp_path / f"{number}.yaml"
        file.write_text(yaml.safe_dump(item["spec"]))
        run("promtool", "check", "rules", file)


def test_the_bulk_jobs_command_knows_what_it_is_given(built: dict[str, list[Object]]) -> None:
    words = shlex.split(named(built["production/bulk"], "RayJob")["spec"]["entrypoint"])
    assert words[:2] == ["bark-serve", "bulk"]
    commands = typer.main.get_command(cli).commands
    known = {name for option in commands["bulk"].params for name in option.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_checkov_finds_nothing_but_what_is_excused(
    built: dict[str, list[Object]], tmp_path: Path
) -> None:
    """On every object, and on the pods that Ray makes: checkov does not look into its objects."""
    whole = [*built["production"], *(p.body for p in pods(built["production"]))]
    bulk = [*built["production/bulk"], *(p.body for p in pods(built["production/bulk"]))]
    (tmp_path / "all.yaml").write_text(yaml.dump_all([*whole, *bulk], Dumper=Plain))
    told = run(
        *(tools().command("checkov"), "--file", tmp_path / "all.yaml", "--skip-download"),
        *("--quiet", "--compact", "--config-file", K8S / ".checkov.yaml", "--output", "json"),
        check=False,
    )
    result = json.loads(told.stdout)
    failed = {f"{c['check_id']} {c['resource']}" for c in result["results"]["failed_checks"]}
    assert failed == set()
    assert result["summary"]["passed"] > 500  # it did look


class Plain(yaml.SafeDumper):
    """Without anchors, which would not go from one document to the next."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# ── the checks themselves: each mistake below is planted, and must be seen ───────────────────────
# kind and name of the object, where in it, what is put there (DROP: it is taken away), what is said
DROP = object()
GROUP = "spec.rayClusterConfig.workerGroupSpecs.2"  # coarse
POD = f"{GROUP}.template.spec"
RAY, CLUSTER = "RayService bark", "spec.rayClusterConfig"
OWN = f"{POD}.containers.0.securityContext"
SELECTS_ALL = {"matchLabels": {"app.kubernetes.io/name": "bark"}}
OTHER_SPACE = {"matchLabels": {"kubernetes.io/metadata.name": "kuberay"}}
TO_ALL = [{"ipBlock": {"cidr": "0.0.0.0/0"}}]
TO_A_LOT = [{"ipBlock": {"cidr": "10.0.0.0/8"}}]

AGAINST_A_SCHEMA = {
    "a field of KubeRay's": (RAY, f"{GROUP}.idleTimeoutSecond", 3, "'idleTimeoutSecond' was unexp"),
    "a word for a number": (RAY, f"{GROUP}.maxReplicas", "two", "'two' is not of type 'integer'"),
    "a word KubeRay lacks": (RAY, f"{CLUSTER}.authOptions.mode", "tokens", "is not one of"),
    "a field of a pod": (RAY, f"{POD}.priorityClas", "x", "priorityClas"),
    "a field of a monitor": (
        "ServiceMonitor bark-collector", "spec.endpoints.0.intervall", "1s", "intervall: unknown"),
    "a field of a policy": ("NetworkPolicy dns", "spec.policyType", [], "policyType"),
    "a field of a secret": ("ExternalSecret bark-secrets", "spec.targets", {}, "targets"),
}  # fmt: skip
BETWEEN_FILES = {
    "a label that no pool has": (
        RAY, f"{GROUP}.labels", {"bark.stage": "corse"}, "no pool has the label bark.stage=corse"),
    "a stage without a group": (
        RAY, f"{GROUP}.labels", {"bark.stage": "corse"}, "CoarseStage: no worker group has the l"),
    "no toleration": (RAY, f"{POD}.tolerations", DROP, "does not tolerate bark.stage=coarse:NoSch"),
    "another pool's toleration": (
        RAY, f"{POD}.tolerations.0.value", "fine", "does not tolerate bark.stage=coarse"),
    "another pool's node": (
        RAY, f"{POD}.nodeSelector", {"bark.stage": "fine"},
        "no node of the pool coarse has the la"),
    "any node": (RAY, f"{POD}.nodeSelector", DROP, "may land on any pool"),
    "more pods than nodes": (RAY, f"{GROUP}.maxReplicas", 99, "may have 99 pods, the pool 2 nodes"),
    "fewer pods than replicas": (
        RAY, f"{GROUP}.maxReplicas", 1, "may have 2 replicas, the group 1"),
    "more GPUs than there are": (
        RAY, f"{POD}.containers.0.resources.limits.nvidia~com/gpu", 4,
        "takes 4 GPUs of a node that"),
    "another component's account": (
        RAY, f"{POD}.serviceAccountName", "bark-ingress", "the role is bound to bark-stage, not"),
    "an account that is not there": (
        "ServiceAccount bark-stage", "", DROP, "no account bark-stage"),
    "root": (RAY, f"{POD}.securityContext", {"runAsUser": 0}, "as a user that is not root"),
    "another user": (RAY, f"{POD}.securityContext.runAsUser", 1000, "belongs to 10001"),
    "a root that can be written": (
        RAY, f"{OWN}.readOnlyRootFilesystem", False, "can write its root filesystem"),
    "a capability": (RAY, f"{OWN}.capabilities.add", ["SYS_ADMIN"], "keeps capabilities"),
    "no limits": (RAY, f"{POD}.containers.0.resources.limits.memory", DROP, "no limits of memory"),
    "a token without use": (RAY, f"{POD}.automountServiceAccountToken", True, "and no use for it"),
    "the latest image": (RAY, f"{POD}.containers.0.image", "bark:latest", "without a fixed tag"),
    "little patience": (
        RAY, f"{POD}.terminationGracePeriodSeconds", 60, "killed before its requests are done"),
    "weights of another model": (
        RAY, f"{POD}.initContainers.0.args.1", "s3://bark-weights-111122223333/x",
        "/x, serves s3:/"),
    "a folder that no node has": (RAY, f"{POD}.volumes.0.hostPath.path", "/tmp", "not /tmp"),
    "no token in the cluster": (RAY, f"{CLUSTER}.authOptions", DROP, "anyone inside may give Ray"),
    "the old autoscaler": (
        RAY, f"{CLUSTER}.autoscalerOptions.version", "v1", "need the autoscaler"),
    "a head that works": (
        RAY, f"{CLUSTER}.headGroupSpec.rayStartParams.num-cpus", "4", "the head must do no work"),
    "a head that may not die": (
        RAY, f"{CLUSTER}.gcsFaultToleranceOptions", DROP,
        "the head's death would be the cluster's"),
    "no Redis there": (
        RAY, f"{CLUSTER}.gcsFaultToleranceOptions.redisAddress", "redis:1",
        "nobody answers at redis:1"),
    "a secret without the key": (
        "ExternalSecret bark-secrets", "spec.data.1", DROP, "no key api-keys in a secret"),
    "open egress": ("NetworkPolicy s3", "spec.egress.0.to", DROP, "open to everyone"),
    "egress to the internet": ("NetworkPolicy s3", "spec.egress.0.to", TO_ALL, "open to 0.0.0.0/0"),
    "egress to who knows whom": (
        "NetworkPolicy s3", "spec.egress.0.to", TO_A_LOT, "Terraform knows no 10.0.0.0/8"),
    "egress on every port": ("NetworkPolicy s3", "spec.egress.0.ports", DROP, "open on every port"),
    "a new way out": (
        "NetworkPolicy s3", "metadata.name", "s4",
        "NetworkPolicy s4: a way out that nobody decided"),
    "no default": ("NetworkPolicy default-deny", "", DROP, "it must deny everything to everyone"),
    "a policy for nobody": (
        "NetworkPolicy otlp", "spec.podSelector.matchLabels", {"app": "bark"},
        "otlp: selects no pod"),
    "a policy for another port": (
        "NetworkPolicy http", "spec.ingress.0.ports.0.port", 80, "has the port 80"),
    "an operator elsewhere": (
        "NetworkPolicy operator", "spec.ingress.0.from.0.namespaceSelector", OTHER_SPACE,
        "there is no namespace kuberay"),
    "a budget that can not be counted": (
        "PodDisruptionBudget bark-coarse", "spec", {"maxUnavailable": 1, "selector": SELECTS_ALL},
        "can not count Ray's pods"),
    "a budget for nobody": (
        "PodDisruptionBudget bark-coarse", "spec.selector.matchLabels", {"app": "x"}, "no pod"),
    "a monitor of no port": (
        "PodMonitor bark-workers", "spec.podMetricsEndpoints.0.port", "metric",
        "asks for a port that is not there"),
    "a service on no port": (
        "Service bark-collector", "spec.ports.0.targetPort", "otlp", "has no port otlp"),
}  # fmt: skip
IN_THE_SERVE_CONFIG = {
    "a deployment": ("name: CoarseStage", "name: CoarsStage", "did you mean CoarseStage"),
    "an argument": ("semantic_slots", "semantc_slots", "semantc_slots"),
    "loopback": ("host: 0.0.0.0", "host: 127.0.0.1", "nobody outside the pod reaches 127.0.0.1"),
    "a port": ("port: 8000", "port: 8001", "its port serve is not 8001"),
    "a bucket": ("s3://bark-outputs", "s3://bark-output", "no bucket bark-output-111122223333"),
    "a pool": ("bark.stage: coarse", "bark.stage: corse", "bark.stage is one of"),
    "too many GPUs": ("num_gpus: 1", "num_gpus: 2", "asks for 2.0 GPUs, a pod of semantic has 1"),
    "too many CPUs": ("num_cpus: 2", "num_cpus: 8", "asks for 8.0 CPUs, a pod of ingress has 3"),
}
IN_THE_COLLECTOR = {
    "an exporter that is not defined": (
        "exporters: [awsxray]", "exporters: [xray]", "exporters xr"),
    "the bound on memory last": ("[memory_limiter, probabilistic_sampler", "[probabilistic_sampler",
        "memory_limiter comes first"),
    "another port": ("0.0.0.0:4318", "0.0.0.0:4317", "the port otlp-http is 4318"),
}  # fmt: skip


def plant(objects: list[Object], thing: str, path: str, value: Any) -> None:
    item = named(objects, *thing.split())
    if not path:
        objects.remove(item)
        return
    *steps, last = (step.replace("~", ".") for step in path.split("."))
    place: Any = item
    for step in steps:
        place = place[int(step)] if step.isdigit() else place[step]
    key = int(last) if isinstance(place, list) else last
    if value is DROP:
        del place[key]
    else:
        place[key] = value


def test_mistakes_against_a_schema_are_seen(built: dict[str, list[Object]]) -> None:
    need_crds()
    for thing, path, value, said in AGAINST_A_SCHEMA.values():
        objects = copy.deepcopy(built["production"])
        plant(objects, thing, path, value)
        found = wrong_with(named(objects, *thing.split()))
        assert any(said in problem for problem in found), (path, found)


@pytest.mark.parametrize("mistake", BETWEEN_FILES)
def test_a_mistake_between_files_is_seen(production: list[Object], mistake: str) -> None:
    thing, path, value, said = BETWEEN_FILES[mistake]
    plant(production, thing, path, value)
    found = disagreements(production, VALUES)
    assert any(said in problem for problem in found), found


@pytest.mark.parametrize("mistake", IN_THE_SERVE_CONFIG)
def test_a_mistake_in_the_serve_config_is_seen(production: list[Object], mistake: str) -> None:
    right, wrong, said = IN_THE_SERVE_CONFIG[mistake]
    spec = named(production, "RayService")["spec"]
    assert right in spec["serveConfigV2"]
    spec["serveConfigV2"] = spec["serveConfigV2"].replace(right, wrong, 1)
    assert any(said in problem for problem in disagreements(production, VALUES))


@pytest.mark.parametrize("mistake", IN_THE_COLLECTOR)
def test_a_mistake_in_the_collector_is_seen(production: list[Object], mistake: str) -> None:
    right, wrong, said = IN_THE_COLLECTOR[mistake]
    data = named(production, "ConfigMap", "bark-collector")["data"]
    assert right in data["config.yaml"]
    data["config.yaml"] = data["config.yaml"].replace(right, wrong, 1)
    assert any(said in problem for problem in disagreements(production, VALUES))
