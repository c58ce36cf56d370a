"""The devices that a proof of device code is repeated for: the CPU, and CUDA where there is one."""

import pytest
import torch

DEVICES = [pytest.param("cpu", id="cpu")]
if torch.cuda.is_available():  # `make gpu` runs these alone
    DEVICES.append(pytest.param("cuda", id="cuda", marks=pytest.mark.gpu))
