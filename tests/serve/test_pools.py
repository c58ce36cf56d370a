"""Stages on pools of their own: several nodes, logical GPUs, labels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cluster import STAGES, Served, eventually

SCALING = {
    "min_replicas": 1,
    "max_replicas": 2,
    "target_ongoing_requests": 2,
    "upscale_delay_s": 1,
    "downscale_delay_s": 3,
    "look_back_period_s": 2,
}
ONE = {"autoscaling_config": None, "num_replicas": 1}


@pytest.fixture(scope="module")
def served(monkeypatch_module):
    """A head, and a node with two logical GPUs for each stage."""
    from ray.cluster_utils import Cluster

    # autoscaling looks this often
    monkeypatch_module.setenv("RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S", "0.5")
    monkeypatch_module.setenv("RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S", "0.5")
    nodes = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False}
    )
    for stage in STAGES:
        pool = stage.removesuffix("Stage").lower()
        nodes.add_node(num_cpus=2, num_gpus=2, labels={"bark.stage": pool})
    cluster = Served(nodes.address)
    try:
        yield cluster
    finally:
        cluster.close()
        nodes.shutdown()


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def on_gpus(served):
    """Return what every stage is to have: a GPU in its own pool, and nowhere else."""
    return {
        stage: {
            "autoscaling_config": SCALING,
            "ray_actor_options": {
                "num_cpus": 0.1,
                "num_gpus": 1,
                "label_selector": {"bark.stage": stage.removesuffix("Stage").lower()},
            },
        }
        for stage in STAGES
    }


@pytest.mark.slow
def test_pools_are_kept_and_stages_scale_by_themselves(served):
    import ray

    served.deploy(Ingress=ONE, args={"model": {"device": "cpu"}}, **on_gpus(served))
    labels = {node["NodeID"]: node["Labels"].get("bark.stage") for node in ray.nodes()}
    for stage in STAGES:
        fact = served.handle(stage).facts.remote().result()
        assert labels[fact["node"]] == stage.removesuffix("Stage").lower()
        assert fact["backlog_tokens"] == 0
    assert {stage: len(served.pids(stage)) for stage in STAGES} == dict.fromkeys(STAGES, 1)

    # work for coarse alone
    semantic = np.arange(150, dtype=np.int64)
    coarse = served.handle("CoarseStage")
    seeds, busy = itertools.count(), []

    def send(number):
        busy.extend(
            coarse.generate.remote({"semantic": semantic, "seed": seed})
            for seed in itertools.islice(seeds, number)
        )

    send(200)
    seen = set()

    def grown():
        send(50)  # however fast the stage is, it does not run out of work before it has grown
        seen.add(served.handle("CoarseStage").facts.remote().result()["backlog_tokens"] > 0)
        return len(served.pids("CoarseStage")) == 2

    eventually(grown, within_s=120)
    assert True in seen  # the backlog was told
    assert {stage: len(served.pids(stage)) for stage in STAGES} == {
        **dict.fromkeys(STAGES, 1),
        "CoarseStage": 2,
    }
    for answer in busy:
        answer.cancel()
    eventually(lambda: len(served.pids("CoarseStage")) == 1, within_s=120)
