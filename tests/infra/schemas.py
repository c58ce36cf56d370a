"""Is a Kubernetes object what its kind's schema says, with no field that the schema does not know?

Three sources: Kubernetes' own schemas (kubernetes-validate), KubeRay's CRDs made strict (from a
folder that is not in this repository), the Prometheus operator's types. Rules that an API server
would evaluate beyond schemas (CEL) are not checked here but where they matter, in `rules.py`.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.prometheus_operator import v1 as prometheus
from pydantic import ValidationError
from tools import ROOT

KUBERNETES = "1.34"  # infra/terraform's kubernetes_version
# it would read all of Kubernetes' definitions again for each object
kubernetes_validate.utils.schema_contents = functools.cache(
    kubernetes_validate.utils.schema_contents
)
_PROMETHEUS = {
    "PodMonitor": prometheus.PodMonitor,
    "ServiceMonitor": prometheus.ServiceMonitor,
    "PrometheusRule": prometheus.PrometheusRule,
}
# Of kinds whose schema is in no package: what there must be, and nothing else.
_EXTERNAL_SECRET = {
    "type": "object",
    "required": ["secretStoreRef", "target", "data"],
    "additionalProperties": False,
    "properties": {
        "refreshInterval": {"type": "string", "pattern": "^[0-9]+[smh]$"},
        "secretStoreRef": {
            "required": ["name", "kind"],
            "additionalProperties": False,
            "properties": {"name": {}, "kind": {"enum": ["SecretStore", "ClusterSecretStore"]}},
        },
        "target": {
            "required": ["name"],
            "additionalProperties": False,
            "properties": {"name": {}, "creationPolicy": {"enum": ["Owner", "Merge", "Orphan"]}},
        },
        "data": {
            "type": "array",
            "items": {
                "required": ["secretKey", "remoteRef"],
                "additionalProperties": False,
                "properties": {
                    "secretKey": {"type": "string"},
                    "remoteRef": {
                        "required": ["key"],
                        "additionalProperties": False,
                        "properties": {"key": {}, "property": {}},
                    },
                },
            },
        },
    },
}


def crd_folder() -> Path | None:
    """Return where KubeRay's CRDs lie, if they are at hand."""
    shared = Path(os.environ.get("BARK_SHARED", ROOT.parent / "shared"))
    folders = (shared / "data" / "kuberay-crds", ROOT / ".infra" / "kuberay-crds")
    return next((folder for folder in folders if any(folder.glob("*.yaml"))), None)


def need_crds() -> None:
    if crd_folder() is None:
        pytest.skip(
            "KubeRay's CRDs are not here: run make kuberay-crds (it needs the internet), or set "
            "BARK_SHARED to the folder that holds data/kuberay-crds"
        )


def wrong_with(item: dict[str, Any]) -> list[str]:
    """Return what the schema has against an object; of KubeRay's, nothing without the CRDs."""
    group, kind = item["apiVersion"].partition("/")[0], item["kind"]
    if group == "ray.io":
        validator = _crd(kind)
        return [] if validator is None else [_said(e) for e in validator.iter_errors(item)]
    if group == "monitoring.coreos.com":
        return _dropped_by(_PROMETHEUS[kind], item)
    if kind == "ExternalSecret":
        return [
            _said(e) for e in jsonschema.Draft7Validator(_EXTERNAL_SECRET).iter_errors(item["spec"])
        ]
    try:
        kubernetes_validate.validate(item, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message[:200]}"]
    return []


def _said(error: jsonschema.ValidationError) -> str:
    return f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"


def _dropped_by(model: Any, item: dict[str, Any]) -> list[str]:
    """The types refuse what is wrong, and silently drop what they do not know."""
    try:
        kept = model.model_validate(item).model_dump(by_alias=True, exclude_unset=True, mode="json")
    except ValidationError as error:
        return [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    return [f"{path}: unknown" for path in sorted(_paths(item) - _paths(kept))]


def _paths(value: Any, at: str = "") -> set[str]:
    if isinstance(value, dict):
        return {
            p
            for key, inner in value.items()
            for p in {f"{at}.{key}"} | _paths(inner, f"{at}.{key}")
        }
    if isinstance(value, list):
        return {p for number, inner in enumerate(value) for p in _paths(inner, f"{at}.{number}")}
    return set()


# ── KubeRay ──────────────────────────────────────────────────────────────────────────────────────
@functools.cache
def _crd(kind: str) -> jsonschema.Draft7Validator | None:
    folder = crd_folder()
    if folder is None:
        return None
    text = (folder / f"ray.io_{kind.lower()}s.yaml").read_text()
    versions = yaml.load(text, Loader=yaml.CSafeLoader)["spec"]["versions"]
    (version,) = (v for v in versions if v["name"] == "v1")
    schema = _strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft7Validator(schema)


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Turn a structural schema into one that knows no other fields than it names."""
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {
        key: schema[key]
        for key in ("enum", "required", "minimum", "maximum", "pattern")
        if key in schema
    }
    if "type" in schema:
        made["type"] = [schema["type"], "null"] if schema.get("nullable") else schema["type"]
    if "properties" in schema:
        made["properties"] = {key: _strict(value) for key, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made["additionalProperties"] = False
    if isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = _strict(schema["additionalProperties"])
    if "items" in schema:
        made["items"] = _strict(schema["items"])
    return made
