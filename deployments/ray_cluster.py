"""Ray under a command: a cluster started on this machine, or one that runs already."""

from __future__ import annotations

import logging
import os
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
    # Ray would give an actor that asks for a third of a core one thread; here the stages take
    # turns, and each may have all cores while it works.
    os.environ.setdefault("OMP_NUM_THREADS", str(default_num_threads()))
    try:
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
