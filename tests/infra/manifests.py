"""What `kubectl kustomize` makes of a folder, and the pods that would come of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tools import kubectl, run

Object = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """A pod template, as a pod. owner: kind and name; group: of Ray's workers, `head`, or None."""

    owner: str
    group: Object | None
    body: Object

    @property
    def labels(self) -> dict[str, str]:
        return self.body["metadata"].get("labels", {})

    @property
    def spec(self) -> Object:
        return self.body["spec"]

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def __str__(self) -> str:
        return f"{self.owner} {self.labels.get('app.kubernetes.io/component', '')}".strip()


def build(folder: Path) -> list[Object]:
    """Return the objects of an overlay."""
    text = run(kubectl(), "kustomize", folder).stdout
    return [item for item in yaml.load_all(text, Loader=yaml.CSafeLoader) if item]


def named(objects: list[Object], kind: str, name: str | None = None) -> Object:
    (found,) = (o for o in objects if o["kind"] == kind and name in (None, o["metadata"]["name"]))
    return found


def clusters(objects: list[Object]) -> Iterator[tuple[Object, Object]]:
    """Yield each object that makes a Ray cluster, and the cluster's spec."""
    for item in objects:
        if item["kind"] == "RayService":
            yield item, item["spec"]["rayClusterConfig"]
        elif item["kind"] == "RayJob":
            yield item, item["spec"]["rayClusterSpec"]
        elif item["kind"] == "RayCronJob":
            yield item, item["spec"]["jobTemplate"]["rayClusterSpec"]


def pods(objects: list[Object]) -> list[Pod]:
    """Return every pod template, with the labels that KubeRay adds."""
    found = []
    for item in objects:
        owner = f"{item['kind']} {item['metadata']['name']}"
        if item["kind"] in ("Deployment", "StatefulSet"):
            found.append(_pod(owner, None, item["spec"]["template"], {}))
    for item, cluster in clusters(objects):
        owner = f"{item['kind']} {item['metadata']['name']}"
        head = {"ray.io/node-type": "head", "ray.io/is-ray-node": "yes"}
        found.append(_pod(owner, None, cluster["headGroupSpec"]["template"], head))
        for group in cluster["workerGroupSpecs"]:
            worker = {**group["labels"], "ray.io/node-type": "worker", "ray.io/is-ray-node": "yes"}
            found.append(_pod(owner, group, group["template"], worker))
    return found


def _pod(owner: str, group: Object | None, template: Object, added: dict[str, str]) -> Pod:
    labels = {**template.get("metadata", {}).get("labels", {}), **added}
    name = "-".join([*owner.lower().split(), labels.get("app.kubernetes.io/component", "0")])
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "bark", "labels": labels},
        "spec": template["spec"],
    }
    return Pod(owner, group, body)


def matches(selector: Object, labels: dict[str, str]) -> bool:
    """Say whether a label selector selects these labels."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for rule in selector.get("matchExpressions", []):
        found = labels.get(rule["key"])
        if rule["operator"] == "In" and found not in rule["values"]:
            return False
        if rule["operator"] == "NotIn" and found in rule["values"]:
            return False
        if rule["operator"] == "Exists" and found is None:
            return False
    return True
