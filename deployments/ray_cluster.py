"""Ray under a command: a cluster started on this machine, or one that runs already."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipeline.engine.native_gpt import default_num_threads
from pipeline.errors import EngineFailed


def connect(
    address: str | None, num_cpus: int | None = None, num_gpus: int | None = None, **options: Any
) -> bool:
    """Connect this process to Ray, quietly; say whether the cluster is one that was started here.

    Args:
        address: of a cluster that runs; None starts one, of so many CPUs and GPUs.
        options: more of `ray.init`'s, for a cluster that is started.

    Raises:
        EngineFailed: Ray is not installed, or can not be started.
    """
    try:
        import ray
    except ImportError:
        raise EngineFailed("Ray is not installed: pip install 'bark-serve[serve]'") from None

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if address is not None:
        ray.init(address=address, **quiet)
        return False
    try:
        with _variables(_on_one_machine()):
            ray.init(  # "local": not one that happens to run here already
                address="local",
                num_cpus=num_cpus,
                num_gpus=num_gpus,
                include_dashboard=False,
                **quiet,
                **options,
            )
    except Exception as error:  # of many kinds; a machine that is very busy is one of them
        raise EngineFailed(f"Ray can not be started here: {error}") from error
    return True


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set what is not set yet, for the processes that are started meanwhile."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _on_one_machine() -> dict[str, str]:
    """Return what suits Ray's processes where they share one machine, as variables for them."""
    return {
        # Ray would give an actor that asks for a third of a core one thread; here the stages take
        # turns, and each may have all cores while it works.
        "OMP_NUM_THREADS": str(default_num_threads()),
        # Ray's workers would yield to all others; and each burst of another process holds up both
        # threads of a step, which wait for each other.
        "RAY_worker_niceness": "0",
        # The codec's helper thread sleeps between two of torch's loops. Awake it is sooner there,
        # but the stages' threads share the cores, and while they take each other's it spins.
        "GOMP_SPINCOUNT": "0",
        # Between replicas gRPC takes half the time of a call of an actor. Between machines it may
        # take minutes to notice that one is gone; see docs/decisions/0038.
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
        "RAY_SERVE_PROXY_USE_GRPC": "0",  # there it is no faster
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(1 << 30),
    }
