"""A function of static buffers as one CUDA graph: told to the device once, then replayed.

Such a function takes nothing and returns nothing, allocates what it likes, changes given tensors
in place, and never asks the device for a value: whatever varies between two calls is data in its
buffers. Where there is no CUDA the same function is called as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch

# so that libraries have chosen their kernels, and Triton has compiled, before the graph is made
_WARM_UPS = 2

Function = Callable[[], None]


class Capture(Protocol):
    def __call__(self, function: Function, device: torch.device) -> Function: ...


def own_stream(device: torch.device) -> torch.cuda.Stream | None:
    """Return a stream, so that one stage's work overlaps with the others'; None off CUDA."""
    if device.type != "cuda":
        return None
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def on(stream: torch.cuda.Stream | None) -> AbstractContextManager[Any]:
    """Tell the device things on this stream, for a while."""
    return nullcontext() if stream is None else torch.cuda.stream(stream)


def capture(function: Function, device: torch.device) -> Function:
    """Return what does the same as `function`, at once on a device, late on the host's clock.

    On CUDA the function runs a few times first: its buffers must be such that this changes
    nothing. What is returned runs on the stream that is current when it is called.
    """
    if device.type != "cuda":
        return function
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(_WARM_UPS):
            function()
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    # other stages' threads may allocate meanwhile
    with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
        function()
    torch.cuda.synchronize(device)
    return graph.replay
