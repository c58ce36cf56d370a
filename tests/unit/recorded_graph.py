"""A CUDA graph's rules on a CPU: operations are told once, with their tensors, then replayed.

What CUDA records is kernels and addresses. So a replay must not run the function's Python again,
every result must land where it lay at the recording, and nothing may have asked for a value.
"""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# what would make the host wait for the device, or give shapes that are data
FORBIDDEN = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "masked_select", "_unique2")


class _Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in FORBIDDEN, f"{func} waits for the device"
        if "index" in func.overloadpacket.__name__:
            indices = [t for t in tree_leaves(args[1:2]) if isinstance(t, torch.Tensor)]
            assert all(t.dtype != torch.bool for t in indices), f"{func} by a mask: shape is data"
        results = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, results))
        return results


class RecordedGraph:
    """Fulfils `graphs.Capture`; `replays` counts."""

    def __init__(self):
        self.replays = 0

    def __call__(self, function, device):
        for _ in range(2):  # as on CUDA: it must not matter
            function()
        with _Recorder() as recorder:
            function()

        def replay():
            self.replays += 1
            for func, args, kwargs, recorded in recorder.calls:
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(recorded), tree_leaves(again), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)  # else a view, or changed in place

        return replay
