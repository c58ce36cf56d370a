"""The whole graph on one screen.

NOTE: no `from __future__ import annotations` here: Serve reads `build`'s annotation to turn the
file's `args` into an `AppConfig`, and would find a string.
"""

from ray import serve
from ray.serve import Application, Deployment

from deployments.coarse import CoarseStage
from deployments.codec import CodecStage
from deployments.config import AppConfig
from deployments.fine import FineStage
from deployments.ingress import Ingress
from deployments.semantic import SemanticStage


def build(args: AppConfig) -> Application:
    """Return the application `bark`: an ingress that calls four stages, each a deployment.

    Replicas, resources, pools and autoscaling come from `serve_config.yaml`.
    """
    stages = [
        _deployment(stage).bind(args)
        for stage in (SemanticStage, CoarseStage, FineStage, CodecStage)
    ]
    return _deployment(serve.ingress()(Ingress)).bind(args, *stages)


def _deployment(kind: type) -> Deployment:
    """Return a class as a deployment of its own name."""
    deployment: Deployment = serve.deployment(kind)  # type: ignore[assignment]
    return deployment
