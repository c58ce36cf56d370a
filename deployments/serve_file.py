"""`serve_config.yaml`, read strictly: Serve itself passes over what it does not know.

Refuses unknown keys at every level, deployments that are missing or not ours, least replicas
above most, and node labels that no pool has. The result is what Serve's own schema takes.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import (
    DeploymentSchema,
    HTTPOptionsSchema,
    RayActorOptionsSchema,
    ServeApplicationSchema,
    ServeDeploySchema,
)

from deployments.config import APP_NAME, INGRESS, STAGE_LABEL, STAGES, AppConfig
from pipeline.errors import InvalidRequest

POOLS = tuple(name.removesuffix("Stage").lower() for name in (INGRESS, *STAGES))
IMPORT_PATH = "deployments.app:build"


def read_serve_file(path: Path) -> tuple[ServeDeploySchema, AppConfig]:
    """Read and check the file.

    Raises:
        InvalidRequest: names the key or number that is wrong, and what was expected.
    """
    try:
        return check_serve_config(load_serve_file(path))
    except InvalidRequest as error:
        raise InvalidRequest(f"{path}: {error.message}") from None


def load_serve_file(path: Path) -> dict[str, Any]:
    """Return the file's content, unchecked.

    Raises:
        InvalidRequest: no such file, no YAML, or no mapping.
    """
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidRequest(f"can not read {path}: {error}") from error
    if not isinstance(given, dict):
        raise InvalidRequest(f"{path} is no serve config: it holds no mapping")
    return given


def check_serve_config(given: Any) -> tuple[ServeDeploySchema, AppConfig]:
    """Check the content of a file; see `read_serve_file`."""
    _known(given, ServeDeploySchema.model_fields, "the file")
    _known(given.get("http_options") or {}, HTTPOptionsSchema.model_fields, "http_options")
    applications = given.get("applications")
    if not isinstance(applications, list) or len(applications) != 1:
        raise InvalidRequest("applications must hold exactly one application")
    app = applications[0]
    _known(app, ServeApplicationSchema.model_fields, "the application")
    if app.get("name") != APP_NAME or app.get("import_path") != IMPORT_PATH:
        raise InvalidRequest(f"the application must be {APP_NAME}, with import_path {IMPORT_PATH}")
    deployments = app.get("deployments") or []
    if not isinstance(deployments, list):
        raise InvalidRequest("deployments must be a list")
    for deployment in deployments:
        _check_deployment(deployment)
    names = [deployment["name"] for deployment in deployments]
    if missing := {INGRESS, *STAGES} - set(names):
        raise InvalidRequest(f"no deployment {', '.join(sorted(missing))}")
    if len(names) != len(set(names)):
        raise InvalidRequest("a deployment is listed twice")
    try:
        config = AppConfig.model_validate(app.get("args") or {})
        return ServeDeploySchema.model_validate(given), config
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}"
            for item in error.errors(include_url=False)
        ]
        raise InvalidRequest("; ".join(problems)) from None


def _check_deployment(given: Any) -> None:
    _known(given, DeploymentSchema.model_fields, "a deployment")
    name = given.get("name")
    if name not in (INGRESS, *STAGES):
        raise InvalidRequest(
            f"no deployment is named {name!r}{_hint(str(name), (INGRESS, *STAGES))}"
        )
    scaling = given.get("autoscaling_config")
    if scaling is not None:
        _known(scaling, AutoscalingConfig.model_fields, f"{name}.autoscaling_config")
        if given.get("num_replicas") not in (None, "auto"):
            raise InvalidRequest(f"{name}: give num_replicas or autoscaling_config, not both")
        least, most = scaling.get("min_replicas", 1), scaling.get("max_replicas", 1)
        first = scaling.get("initial_replicas", least)
        if not 0 <= least <= first <= most:
            raise InvalidRequest(
                f"{name}.autoscaling_config: min_replicas {least} ≤ initial_replicas {first} ≤ "
                f"max_replicas {most} does not hold"
            )
    options = given.get("ray_actor_options") or {}
    _known(options, RayActorOptionsSchema.model_fields, f"{name}.ray_actor_options")
    fallbacks = options.get("fallback_strategy") or []
    for selector in (options, *fallbacks):
        _check_labels(selector.get("label_selector") or {}, name)


def _check_labels(labels: Mapping[str, Any], name: str) -> None:
    for label, value in labels.items():
        if label != STAGE_LABEL and not label.startswith("ray.io/"):
            raise InvalidRequest(
                f"{name}: no pool has the label {label!r}{_hint(label, [STAGE_LABEL])}"
            )
        if label == STAGE_LABEL and not set(_values(str(value))) <= set(POOLS):
            raise InvalidRequest(
                f"{name}: {STAGE_LABEL} is one of {', '.join(POOLS)}, not {value!r}"
                f"{_hint(str(value), POOLS)}"
            )


def _values(expression: str) -> Iterable[str]:
    """Yield the values in a selector: `a`, `!a`, `in(a, b)`, `!in(a)`."""
    inner = expression.removeprefix("!").removeprefix("in(").removesuffix(")")
    return (value.strip() for value in inner.split(","))


def _known(given: Any, fields: Collection[str], where: str) -> None:
    if not isinstance(given, Mapping):
        raise InvalidRequest(f"{where} must be a mapping, not {type(given).__name__}")
    for key in given:
        if key not in fields:
            raise InvalidRequest(f"{where} has no setting {key!r}{_hint(str(key), fields)}")


def _hint(given: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(given, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
