"""What no schema sees: names, labels, ports and sizes that must agree between files.

Each rule yields sentences on what is wrong; `problems` is all of them. The same rules are held
against what the overlays build, where they must have nothing to say, and against planted mistakes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from manifests import Object, Pod, clusters, matches, named, pods
from schemas import wrong_with

from deployments.config import INGRESS, STAGE_LABEL, STAGES
from deployments.serve_file import check_serve_config
from pipeline.errors import InvalidRequest

Said = Iterator[str]
APP, COMPONENT = "app.kubernetes.io/name", "app.kubernetes.io/component"
MAY_ASK_KUBERNETES = ("head", "bulk")
# Every way out that there may be, by the policy's name; a new one is a decision, not a slip.
WAYS_OUT = {"dns", "ray", "head-to-redis", "otlp", "api-server", "s3", "x-ray", "gateway"}
# Of pods that a Gateway's controller makes later, and the namespace that they take orders from.
GATEWAY, GATEWAY_SPACE = "gateway.networking.k8s.io/gateway-name", "istio-system"


def problems(objects: list[Object], values: Object | None = None) -> list[str]:
    """Return what is wrong with an overlay's objects.

    Args:
        values: what Terraform knows, for an overlay that is made from it.
    """
    found = [f"{o['kind']} {o['metadata']['name']}: {w}" for o in objects for w in wrong_with(o)]
    found += [f"{pod}: {said}" for pod in pods(objects) for said in wrong_with(pod.body)]
    return found or disagreements(objects, values)


def disagreements(objects: list[Object], values: Object | None = None) -> list[str]:
    """Return what is wrong with objects that are right one by one; see `problems`."""
    found = [f"{pod}: {said}" for pod in pods(objects) for said in hardened(pod)]
    rules: tuple[Callable[..., Said], ...] = (accounts, references, services, budgets, monitors)
    for rule in (*rules, ray_clusters, policies, collector):
        found += rule(objects)
    if any(o["kind"] == "RayService" for o in objects):
        found += served(objects)
    if values is not None:
        found += agrees_with_terraform(objects, values)
    return found


# ── pods ─────────────────────────────────────────────────────────────────────────────────────────
def hardened(pod: Pod) -> Said:
    spec, context = pod.spec, pod.spec.get("securityContext", {})
    if not context.get("runAsNonRoot") or not context.get("runAsUser", 0):
        yield "must run as a user that is not root"
    if any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        yield "shares the node's namespaces"
    if (
        spec.get("automountServiceAccountToken")
        and pod.labels.get(COMPONENT) not in MAY_ASK_KUBERNETES
    ):
        yield "has a token for Kubernetes, and no use for it"
    for container in pod.containers:
        name, own = container["name"], container.get("securityContext", {})
        if not own.get("readOnlyRootFilesystem"):
            yield f"{name} can write its root filesystem"
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            yield f"{name} may gain privileges"
        if own.get("capabilities", {}).get("drop") != ["ALL"] or own["capabilities"].get("add"):
            yield f"{name} keeps capabilities"
        if (own.get("seccompProfile") or context.get("seccompProfile", {})).get(
            "type"
        ) != "RuntimeDefault":
            yield f"{name} has no seccomp profile"
        for kind in ("requests", "limits"):
            missing = {"cpu", "memory"} - set(container.get("resources", {}).get(kind, {}))
            if missing:
                yield f"{name} has no {kind} of {', '.join(sorted(missing))}"
        tag = container["image"].rpartition(":")[2]
        if ":" not in container["image"] or tag == "latest":
            yield f"{name} runs an image without a fixed tag: {container['image']}"
        volumes = {volume["name"] for volume in spec.get("volumes", [])} | _claimed(pod)
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"{name} mounts {mount['name']}, which is no volume"


def _claimed(pod: Pod) -> set[str]:
    return {"data"} if pod.owner.startswith("StatefulSet") else set()


def accounts(objects: list[Object]) -> Said:
    there = {o["metadata"]["name"] for o in objects if o["kind"] == "ServiceAccount"}
    for pod in pods(objects):
        if pod.spec.get("serviceAccountName") not in there:
            yield f"{pod}: no account {pod.spec.get('serviceAccountName')}"
    classes = {o["metadata"]["name"] for o in objects if o["kind"] == "PriorityClass"}
    for pod in pods(objects):
        if classes and pod.spec.get("priorityClassName", "bark-serving") not in classes:
            yield f"{pod}: no priority class {pod.spec['priorityClassName']}"


def references(objects: list[Object]) -> Said:
    """Secrets and ConfigMaps that pods name are there, with the keys that they name."""
    secrets: dict[str, set[str]] = {}
    for item in objects:
        if item["kind"] == "Secret":
            secrets[item["metadata"]["name"]] = {*item.get("data", {}), *item.get("stringData", {})}
        if item["kind"] == "ExternalSecret":
            keys = {entry["secretKey"] for entry in item["spec"]["data"]}
            secrets[item["spec"]["target"]["name"]] = keys
    configs = {o["metadata"]["name"] for o in objects if o["kind"] == "ConfigMap"}
    for pod in pods(objects):
        for container in pod.containers:
            for variable in container.get("env", []):
                asked = variable.get("valueFrom", {}).get("secretKeyRef")
                if (
                    asked
                    and not asked.get("optional")
                    and asked["key"] not in secrets.get(asked["name"], ())
                ):
                    yield f"{pod}: no key {asked['key']} in a secret {asked['name']}"
        for volume in pod.spec.get("volumes", []):
            asked = volume.get("configMap")
            if asked and asked["name"] not in configs:
                yield f"{pod}: no ConfigMap {asked['name']}"
    for item, cluster in clusters(objects):
        fault_tolerance = cluster.get("gcsFaultToleranceOptions")
        if fault_tolerance is None:
            continue
        asked = fault_tolerance["redisPassword"]["valueFrom"]["secretKeyRef"]
        if asked["key"] not in secrets.get(asked["name"], ()):
            yield f"{item['kind']}: no key {asked['key']} in a secret {asked['name']}"
        host, _, port = fault_tolerance["redisAddress"].partition(":")
        if (host, int(port)) not in _addresses(objects):
            yield f"{item['kind']}: nobody answers at {host}:{port}"


def _addresses(objects: list[Object]) -> set[tuple[str, int]]:
    return {
        (o["metadata"]["name"], port["port"])
        for o in objects
        if o["kind"] == "Service"
        for port in o["spec"]["ports"]
    }


def _ports(pod: Pod) -> dict[str, int]:
    return {p["name"]: p["containerPort"] for c in pod.containers for p in c.get("ports", [])}


def services(objects: list[Object]) -> Said:
    for item in (o for o in objects if o["kind"] == "Service"):
        behind = [
            p for p in pods(objects) if matches({"matchLabels": item["spec"]["selector"]}, p.labels)
        ]
        if not behind:
            yield f"Service {item['metadata']['name']}: selects no pod"
        for pod in behind:
            for port in item["spec"]["ports"]:
                if port["targetPort"] not in _ports(pod):
                    name = item["metadata"]["name"]
                    yield f"Service {name}: {pod} has no port {port['targetPort']}"


def budgets(objects: list[Object]) -> Said:
    for item in (o for o in objects if o["kind"] == "PodDisruptionBudget"):
        name, spec = item["metadata"]["name"], item["spec"]
        chosen = [pod for pod in pods(objects) if matches(spec["selector"], pod.labels)]
        if not chosen:
            yield f"PodDisruptionBudget {name}: selects no pod"
        if any(pod.owner.startswith("Ray") for pod in chosen) and not isinstance(
            spec.get("minAvailable"), int
        ):
            yield f"PodDisruptionBudget {name}: Kubernetes can not count Ray's pods: minAvailable"


def monitors(objects: list[Object]) -> Said:
    for item in objects:
        name = f"{item['kind']} {item['metadata']['name']}"
        if item["kind"] == "PodMonitor":
            chosen = [p for p in pods(objects) if matches(item["spec"]["selector"], p.labels)]
            asked = [e["port"] for e in item["spec"]["podMetricsEndpoints"]]
            there = [set(_ports(pod)) for pod in chosen]
        elif item["kind"] == "ServiceMonitor":
            chosen = [
                o
                for o in objects
                if o["kind"] == "Service"
                and matches(item["spec"]["selector"], o["metadata"].get("labels", {}))
            ]
            asked = [e["port"] for e in item["spec"]["endpoints"]]
            there = [{port["name"] for port in o["spec"]["ports"]} for o in chosen]
        else:
            continue
        if not chosen:
            yield f"{name}: selects nothing"
        if any(not set(asked) <= ports for ports in there):
            yield f"{name}: asks for a port that is not there, of {', '.join(asked)}"


# ── Ray ──────────────────────────────────────────────────────────────────────────────────────────
def ray_clusters(objects: list[Object]) -> Said:
    for item, cluster in clusters(objects):
        name = f"{item['kind']} {item['metadata']['name']}"
        if cluster.get("authOptions", {}).get("mode") != "token":
            yield f"{name}: anyone inside may give Ray orders; set authOptions.mode to token"
        if cluster["autoscalerOptions"].get("version") != "v2":
            yield f"{name}: idleTimeoutSeconds and priority of a group need the autoscaler v2"
        head = cluster["headGroupSpec"]["rayStartParams"]
        if item["kind"] == "RayService" and head.get("num-cpus") != "0":
            yield f"{name}: the head must do no work (num-cpus 0)"
        if item["kind"] == "RayService" and "gcsFaultToleranceOptions" not in cluster:
            yield f"{name}: the head's death would be the cluster's; set gcsFaultToleranceOptions"
        options = item["spec"].get("upgradeStrategy", {}).get("clusterUpgradeOptions")
        if options and options["stepSizePercent"] > options.get("maxSurgePercent", 100):
            yield f"{name}: stepSizePercent must not be above maxSurgePercent"
        for group in cluster["workerGroupSpecs"]:
            yield from (f"{name}, group {group['groupName']}: {said}" for said in _group(group))


def _group(group: Object) -> Said:
    if (
        not group["minReplicas"] <= group["maxReplicas"]
        or not group["replicas"] <= group["maxReplicas"]
    ):
        yield "replicas and minReplicas must not be above maxReplicas"
    for key in ("idleTimeoutSeconds", "priority"):
        if key not in group:
            yield f"has no {key}"
    container = group["template"]["spec"]["containers"][0]
    for key, value in container["resources"]["requests"].items():
        if key in ("memory", "nvidia.com/gpu") and value != container["resources"]["limits"].get(
            key
        ):
            yield f"Ray counts the limit of {key}, so the request must be the same"


def served(objects: list[Object]) -> Said:
    """The serve config is ours, fits the pools, and knows the same ports and times."""
    service = named(objects, "RayService")
    try:
        schema, _ = check_serve_config(yaml.safe_load(service["spec"]["serveConfigV2"]))
    except InvalidRequest as error:
        yield f"serveConfigV2: {error.message}"
        return
    groups = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    if schema.http_options.host != "0.0.0.0":
        yield f"serveConfigV2: nobody outside the pod reaches {schema.http_options.host}"
    for group in groups:
        ports = {
            p["name"]: p["containerPort"]
            for p in group["template"]["spec"]["containers"][0]["ports"]
        }
        if ports.get("serve") != schema.http_options.port:
            yield f"group {group['groupName']}: its port serve is not {schema.http_options.port}"
    deployments = {d.name: d for d in schema.applications[0].deployments}
    if set(deployments) != {INGRESS, *STAGES}:
        yield f"serveConfigV2: deployments are {', '.join(deployments)}"
    for name, deployment in deployments.items():
        yield from (f"{name}: {said}" for said in _placed(deployment, groups))


def _placed(deployment: Any, groups: list[Object]) -> Said:
    options = deployment.ray_actor_options
    wanted = (options.label_selector or {}).get(STAGE_LABEL)
    homes = [group for group in groups if group["labels"].get(STAGE_LABEL) == wanted]
    if wanted is None or not homes:
        yield f"no worker group has the label {STAGE_LABEL}={wanted}"
        return
    (group,) = homes
    spec = group["template"]["spec"]
    limits = spec["containers"][0]["resources"]["limits"]
    cards, asked = limits.get("nvidia.com/gpu", 0), options.num_gpus or 0
    if asked > cards:
        yield f"asks for {asked} GPUs, a pod of {group['groupName']} has {cards}"
    if (options.num_cpus or 0) > _cores(limits["cpu"]):
        yield f"asks for {options.num_cpus} CPUs, a pod of {group['groupName']} has {limits['cpu']}"
    most = deployment.autoscaling_config["max_replicas"]
    if asked and most * asked > group["maxReplicas"] * cards:
        yield f"may have {most} replicas, the group {group['maxReplicas']} pods of {cards} GPUs"
    if deployment.graceful_shutdown_timeout_s >= spec["terminationGracePeriodSeconds"]:
        yield "a pod is killed before its requests are done: raise terminationGracePeriodSeconds"


def _cores(amount: str) -> float:
    return int(amount[:-1]) / 1000 if amount.endswith("m") else float(amount)


# ── network ──────────────────────────────────────────────────────────────────────────────────────
def policies(objects: list[Object]) -> Said:
    found = [o for o in objects if o["kind"] == "NetworkPolicy"]
    whole = any(o["kind"] == "RayService" for o in objects)
    deny = [o for o in found if o["metadata"]["name"] == "default-deny"]
    if whole and [o["spec"] for o in deny] != [
        {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    ]:
        yield "NetworkPolicy default-deny: it must deny everything to everyone"
    for item in found:
        name, spec = f"NetworkPolicy {item['metadata']['name']}", item["spec"]
        chosen = [pod for pod in pods(objects) if matches(spec["podSelector"], pod.labels)]
        if whole and not chosen and not _is_of_a_gateway(spec["podSelector"]):
            yield f"{name}: selects no pod"
        if spec.get("egress") and item["metadata"]["name"] not in WAYS_OUT:
            yield f"{name}: a way out that nobody decided on"
        for side, end in (("ingress", "from"), ("egress", "to")):
            if spec.get(side) is not None and side.title() not in spec["policyTypes"]:
                yield f"{name}: has {side}, but policyTypes does not say so"
            for rule in spec.get(side, []):
                yield from (
                    f"{name}: {said}" for said in _rule(rule.get(end), rule, objects, whole)
                )
        for rule in spec.get("ingress", []):
            for port in rule.get("ports", []):
                if (
                    whole
                    and chosen
                    and not any(port["port"] in _ports(pod).values() for pod in chosen)
                ):
                    yield f"{name}: no pod that it selects has the port {port['port']}"


def _rule(peers: list[Object] | None, rule: Object, objects: list[Object], whole: bool) -> Said:
    if not peers:
        yield "open to everyone"
    for peer in peers or []:
        block = peer.get("ipBlock")
        if block and block["cidr"].endswith("/0"):
            yield f"open to {block['cidr']}"
        if (block or "namespaceSelector" in peer) and not rule.get("ports"):
            yield "open on every port to what is outside the namespace"
        if peer.get("namespaceSelector") == {}:
            yield "open to every namespace"
        inside = "podSelector" in peer and "namespaceSelector" not in peer
        if not whole or not inside or _is_of_a_gateway(peer["podSelector"]):
            continue
        if not any(matches(peer["podSelector"], p.labels) for p in pods(objects)):
            yield f"its peer is no pod: {peer['podSelector']}"


def _is_of_a_gateway(selector: Object) -> bool:
    return any(rule["key"] == GATEWAY for rule in selector.get("matchExpressions", []))


# ── telemetry ────────────────────────────────────────────────────────────────────────────────────
_COMPONENTS = {
    "receivers": {"otlp"},
    "processors": {"memory_limiter", "batch", "resource", "probabilistic_sampler"},
    "exporters": {"debug", "awsxray", "otlphttp", "otlp"},
    "extensions": {"health_check"},
}


def collector(objects: list[Object]) -> Said:
    """No binary that could load the configuration is at hand; so, what it would say of it."""
    addresses = _addresses(objects)
    for pod in pods(objects):
        for container in pod.containers:
            for variable in container.get("env", []):
                if variable["name"] == "OTEL_EXPORTER_OTLP_ENDPOINT" and addresses:
                    host, _, port = variable["value"].removeprefix("http://").partition(":")
                    if (host, int(port)) not in addresses:
                        yield f"{pod}: no collector at {variable['value']}"
    for item in (
        o for o in objects if o["kind"] == "ConfigMap" and "config.yaml" in o.get("data", {})
    ):
        config = yaml.safe_load(item["data"]["config.yaml"])
        yield from (f"collector: {said}" for said in _collector(config, objects))


def _collector(config: Object, objects: list[Object]) -> Said:
    used: dict[str, set[str]] = {"extensions": set(config["service"]["extensions"])}
    for pipeline in config["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            used.setdefault(kind, set()).update(pipeline[kind])
        if pipeline["processors"][0] != "memory_limiter" or pipeline["processors"][-1] != "batch":
            yield "memory_limiter comes first and batch last"
    for kind, names in used.items():
        defined = set(config[kind])
        for name in names ^ defined:
            yield f"{kind} {name} is defined and not used, or used and not defined"
        for name in defined - _COMPONENTS[kind]:
            yield f"there are no {kind} named {name}"
    (pod,) = (p for p in pods(objects) if p.labels.get(APP) == "bark-collector")
    listens = {
        "otlp-http": config["receivers"]["otlp"]["protocols"]["http"]["endpoint"],
        "health": config["extensions"]["health_check"]["endpoint"],
    }
    for port, endpoint in listens.items():
        if endpoint != f"0.0.0.0:{_ports(pod)[port]}":
            yield f"it listens at {endpoint}, the port {port} is {_ports(pod)[port]}"


# ── Terraform ────────────────────────────────────────────────────────────────────────────────────
def agrees_with_terraform(objects: list[Object], values: Object) -> Said:
    for pod in pods(objects):
        if pod.group is not None:
            yield from (f"{pod}: {said}" for said in _on_pool(pod, values["pools"]))
        for volume in pod.spec.get("volumes", []):
            kept = volume.get("hostPath")
            if kept and kept["path"] != values["cache"]["path"]:
                yield f"{pod}: nodes keep weights in {values['cache']['path']}, not {kept['path']}"
        if pod.spec["securityContext"].get("runAsUser") != values["cache"]["uid"]:
            yield f"{pod}: the folder on the node belongs to {values['cache']['uid']}"
        component, account = pod.labels.get(COMPONENT, ""), pod.spec["serviceAccountName"]
        role = "stage" if component in ("semantic", "coarse", "fine", "codec") else component
        if account != values["service_accounts"].get(role, account):
            yield f"{pod}: the role is bound to {values['service_accounts'][role]}, not {account}"
        for container in pod.containers:
            if "bark-serve" in container["image"] and not container["image"].startswith(
                f"{values['image']}:"
            ):
                yield f"{pod}: the image is in {values['image']}, not {container['image']}"
    yield from _buckets(objects, values)
    for item in (o for o in objects if o["kind"] == "NetworkPolicy"):
        yield from _known_addresses(item, values)


def _on_pool(pod: Pod, pools: Object) -> Said:
    stage = pod.group["labels"].get(STAGE_LABEL)
    if stage not in pools:
        yield f"no pool has the label {STAGE_LABEL}={stage}"
        return
    pool = pools[stage]
    for key, value in pod.spec.get("nodeSelector", {}).items():
        if pool["labels"].get(key) != value:
            yield f"no node of the pool {stage} has the label {key}={value}"
    if STAGE_LABEL not in pod.spec.get("nodeSelector", {}):
        yield "may land on any pool"
    tolerated = {
        (t.get("key"), t.get("value"), t.get("effect")) for t in pod.spec.get("tolerations", [])
    }
    for taint in pool["taints"]:
        if (taint["key"], taint["value"], taint["effect"]) not in tolerated:
            yield f"does not tolerate {taint['key']}={taint['value']}:{taint['effect']}"
    cards = pod.spec["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", 0)
    if cards != pool["gpus"]:
        yield f"takes {cards} GPUs of a node that has {pool['gpus']}"
    if pod.group["maxReplicas"] > pool["max_nodes"]:
        yield f"may have {pod.group['maxReplicas']} pods, the pool {pool['max_nodes']} nodes"


def _buckets(objects: list[Object], values: Object) -> Said:
    known = set(values["buckets"].values())
    for item in objects:
        for bucket in re.findall(r"s3://([a-z0-9.-]+)", yaml.safe_dump(item)):
            if bucket not in known:
                yield f"{item['kind']} {item['metadata']['name']}: there is no bucket {bucket}"
    for item, cluster in clusters(objects):
        fetched = {
            container["args"][1]
            for group in cluster["workerGroupSpecs"]
            for container in group["template"]["spec"]["initContainers"]
        }
        if item["kind"] == "RayService":
            config = yaml.safe_load(item["spec"]["serveConfigV2"])["applications"][0]["args"]
            wanted = config["model"]["name"]
        else:
            env = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
            wanted = next(v["value"] for v in env if v["name"] == "BARK_BULK_MODEL")
        if fetched != {wanted}:
            yield f"{item['kind']}: fetches {', '.join(sorted(fetched))}, serves {wanted}"


def _known_addresses(item: Object, values: Object) -> Said:
    name, known = item["metadata"]["name"], {c for cidrs in values["cidrs"].values() for c in cidrs}
    known_spaces = (values["operator_namespace"], values["monitoring_namespace"])
    spaces = {"kube-system", GATEWAY_SPACE, *known_spaces}
    for side, end in (("ingress", "from"), ("egress", "to")):
        for peer in (p for rule in item["spec"].get(side, []) for p in rule.get(end, [])):
            cidr = peer.get("ipBlock", {}).get("cidr")
            if cidr is not None and cidr not in known and cidr != "169.254.170.23/32":
                yield f"NetworkPolicy {name}: Terraform knows no {cidr}"
            space = (
                peer.get("namespaceSelector", {})
                .get("matchLabels", {})
                .get("kubernetes.io/metadata.name")
            )
            if space is not None and space not in spaces:
                yield f"NetworkPolicy {name}: there is no namespace {space}"
