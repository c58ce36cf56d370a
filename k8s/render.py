"""Make what the overlays hold from what others know: `make k8s` and `make k8s-values`.

serve_config.yaml of an overlay is the root's with the overlay's serve_config.patch.yaml laid over
it; for production also buckets, sizes of pools and addresses, as Terraform tells them
(values.json), and the model to serve (model.json). What is written is committed, so that it can be
read, and a test writes it again and compares.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

K8S = Path(__file__).parent
OVERLAYS = ("local", "production")
# Credentials of pods (EKS Pod Identity) come from here; the address is the same on every node.
CREDENTIALS = "169.254.170.23/32"
_MADE = "# Made by k8s/render.py ({how}); change what it is made from, not this.\n"


def merge(base: Any, patch: Any) -> Any:
    """Return `base` with `patch` over it: mappings by key, deployments by name; None removes."""
    if isinstance(base, dict) and isinstance(patch, dict):
        merged = {key: value for key, value in base.items() if patch.get(key, ...) is not None}
        for key, value in patch.items():
            if value is not None:
                merged[key] = merge(merged.get(key), value)
        return merged
    if _is_named(base) and _is_named(patch):
        changes = {item["name"]: item for item in patch}
        unknown = set(changes) - {item["name"] for item in base}
        if unknown:
            raise ValueError(f"nothing is named {', '.join(sorted(unknown))}")
        return [merge(item, changes.get(item["name"], {})) for item in base]
    return copy.deepcopy(patch)


def _is_named(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, dict) and "name" in item for item in value
    )


def serve_config(overlay: Path) -> dict[str, Any]:
    """Return what the overlay's cluster serves."""
    root = yaml.safe_load((K8S.parent / "serve_config.yaml").read_text())
    made: dict[str, Any] = merge(
        root, yaml.safe_load((overlay / "serve_config.patch.yaml").read_text())
    )
    if (overlay / "values.json").exists():
        made = merge(made, _known_of_the_cloud(_read(overlay, "values"), _read(overlay, "model")))
    return made


def _known_of_the_cloud(values: dict[str, Any], model: dict[str, str]) -> dict[str, Any]:
    buckets, pools = values["buckets"], values["pools"]

    def sized(name: str, pool: str) -> dict[str, Any]:
        # one replica a GPU, or one a node that has none
        most = pools[pool]["max_nodes"] * max(1, pools[pool]["gpus"])
        least = max(1, pools[pool]["min_nodes"] * max(1, pools[pool]["gpus"]))
        return {
            "name": name,
            "autoscaling_config": {"min_replicas": least, "max_replicas": most},
        }

    return {
        "applications": [
            {
                "name": "bark",
                "args": {
                    "model": {"name": model_url(values, model)},
                    "store": {
                        "url": f"s3://{buckets['outputs']}",
                        "voices_url": f"s3://{buckets['presets']}",
                        "region": values["region"],
                    },
                },
                "deployments": [
                    sized("Ingress", "ingress"),
                    *(
                        sized(f"{s.title()}Stage", s)
                        for s in ("semantic", "coarse", "fine", "codec")
                    ),
                ],
            }
        ]
    }


def model_url(values: dict[str, Any], model: dict[str, str]) -> str:
    """Return where the cluster's model lies."""
    return f"s3://{values['buckets']['weights']}/{model['prefix']}"


# ── what Terraform knows, in Kubernetes' words ───────────────────────────────────────────────────
def service_patch(values: dict[str, Any], model: dict[str, str]) -> list[dict[str, Any]]:
    """Return the changes to the RayService: sizes of pools, the model, where weights are kept."""
    groups = _groups(K8S / "base" / "rayservice.yaml", "rayClusterConfig")
    patch: list[dict[str, Any]] = []
    for number, group in enumerate(groups):
        at = f"/spec/rayClusterConfig/workerGroupSpecs/{number}"
        pool = values["pools"][group]
        patch += [
            _replace(f"{at}/minReplicas", pool["min_nodes"]),
            _replace(f"{at}/maxReplicas", pool["max_nodes"]),
            *_weights(f"{at}/template/spec", values, model),
        ]
    return patch


def bulk_patch(values: dict[str, Any], model: dict[str, str]) -> list[dict[str, Any]]:
    """Return the changes to the RayJob: the model, where weights are kept, buckets."""
    spec = "/spec/rayClusterSpec"
    pool = values["pools"]["coarse"]
    head = f"{spec}/headGroupSpec/template/spec/containers/0/env"
    return [
        _replace(f"{spec}/workerGroupSpecs/0/maxReplicas", pool["max_nodes"]),
        *_weights(f"{spec}/workerGroupSpecs/0/template/spec", values, model),
        *(
            {"op": "add", "path": f"{head}/-", "value": {"name": name, "value": value}}
            for name, value in {
                "BARK_BULK_MODEL": model_url(values, model),
                "BARK_BULK_INPUT": f"s3://{values['buckets']['outputs']}/inputs/prompts.jsonl",
                "BARK_BULK_OUTPUT": f"s3://{values['buckets']['outputs']}/bulk",
            }.items()
        ),
    ]


def _weights(at: str, values: dict[str, Any], model: dict[str, str]) -> list[dict[str, Any]]:
    """Fetch the model into a folder of the node, which pods that come later find."""
    args = ["fetch", model_url(values, model), "--digest", model["digest"]]
    kept = {"name": "cache", "hostPath": {"path": values["cache"]["path"], "type": "Directory"}}
    return [_replace(f"{at}/initContainers/0/args", args), _replace(f"{at}/volumes/0", kept)]


def ways_out(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the network policies to addresses that only the cloud knows."""
    cidrs = values["cidrs"]
    credentials = _to([CREDENTIALS], 80)
    touches_data = {
        "matchLabels": {"app.kubernetes.io/name": "bark"},
        "matchExpressions": [
            {"key": "app.kubernetes.io/component", "operator": "NotIn", "values": ["head"]}
        ],
    }
    scales = {
        "matchLabels": {"app.kubernetes.io/name": "bark"},
        "matchExpressions": [
            {"key": "app.kubernetes.io/component", "operator": "In", "values": ["head", "bulk"]}
        ],
    }
    collector = {"matchLabels": {"app.kubernetes.io/name": "bark-collector"}}
    return [
        _policy("api-server", scales, [_to(cidrs["api"], 443)]),
        _policy("s3", touches_data, [_to(cidrs["s3"], 443), credentials]),
        _policy("x-ray", collector, [_to(cidrs["endpoints"], 443), credentials]),
    ]


def _policy(name: str, pods: dict[str, Any], egress: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name},
        "spec": {"podSelector": pods, "policyTypes": ["Egress"], "egress": egress},
    }


def _to(cidrs: Iterable[str], port: int) -> dict[str, Any]:
    return {
        "to": [{"ipBlock": {"cidr": cidr}} for cidr in cidrs],
        "ports": [{"protocol": "TCP", "port": port}],
    }


def _replace(path: str, value: Any) -> dict[str, Any]:
    return {"op": "replace", "path": path, "value": value}


def _groups(file: Path, cluster: str) -> list[str]:
    spec = yaml.safe_load(file.read_text())["spec"][cluster]
    return [group["groupName"] for group in spec["workerGroupSpecs"]]


# ── files ────────────────────────────────────────────────────────────────────────────────────────
def rendered(overlay: Path) -> dict[Path, str]:
    """Return every file that is made for an overlay, and its text."""
    files = {overlay / "serve_config.yaml": _text([serve_config(overlay)], "`make k8s`")}
    if not (overlay / "values.json").exists():
        return files
    values, model = _read(overlay, "values"), _read(overlay, "model")
    how = "`make k8s-values`, or `make k8s` after a change of model.json"
    image = {"name": "bark-serve", "newName": values["image"], "newTag": model["image_tag"]}
    for folder, kind, patch, resources in (
        (overlay / "terraform", "RayService", service_patch(values, model), ["network.yaml"]),
        (overlay / "bulk" / "terraform", "RayJob", bulk_patch(values, model), []),
    ):
        component: dict[str, Any] = {
            "apiVersion": "kustomize.config.k8s.io/v1alpha1",
            "kind": "Component",
            "images": [image],
            "patches": [{"target": {"kind": kind}, "path": "patch.yaml"}],
        }
        if resources:
            component["resources"] = resources
        files[folder / "kustomization.yaml"] = _text([component], how)
        files[folder / "patch.yaml"] = _text([patch], how)
    files[overlay / "terraform" / "network.yaml"] = _text(ways_out(values), how)
    return files


def _text(documents: list[Any], how: str) -> str:
    plain = json.loads(json.dumps(documents))  # without YAML's anchors
    text: str = yaml.safe_dump_all(plain, sort_keys=False, width=100)
    return _MADE.format(how=how) + text


def _read(overlay: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((overlay / f"{name}.json").read_text())
    return found


def main() -> None:
    """Write all of it; with the argument `-`, first take in `terraform output -json` from stdin."""
    if sys.argv[1:] == ["-"]:
        told = json.load(sys.stdin)["k8s_values"]["value"]
        text = json.dumps(told, indent=2, sort_keys=True) + "\n"
        (K8S / "overlays" / "production" / "values.json").write_text(text)
    for name in OVERLAYS:
        for file, text in rendered(K8S / "overlays" / name).items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            print(file.relative_to(K8S.parent))


if __name__ == "__main__":
    main()
