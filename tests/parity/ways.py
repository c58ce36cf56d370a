"""The ways to run a model that every proof is repeated for: device, backend, precision."""

import pytest
import torch

from pipeline.engine.native_gpt import is_supported
from pipeline.spec import PRECISIONS

NEEDS_KERNELS = pytest.mark.skipif(not is_supported()[0], reason=is_supported()[1])
DEVICES = [
    pytest.param({"device": "cpu", "backend": "native"}, id="native", marks=NEEDS_KERNELS),
    pytest.param({"device": "cpu", "backend": "torch"}, id="torch"),
]
if torch.cuda.is_available():  # `make gpu` runs these alone
    DEVICES += [
        pytest.param({"device": "cuda", "backend": name}, id=f"cuda-{name}", marks=pytest.mark.gpu)
        for name in ("graph", "torch")
    ]
WAYS = [
    pytest.param(
        {**device.values[0], "precision": precision},
        id=f"{device.id}-{precision}",
        marks=device.marks,
    )
    for device in DEVICES
    for precision in PRECISIONS
]
