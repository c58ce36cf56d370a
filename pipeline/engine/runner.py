"""What touches the device: tokens in, logits out, for causal models.

A runner owns a model's embeddings and its network. Three backends do the same work: `native` (our
AVX-512 kernels; the result of a position depends on its prefix alone), `torch` (any device) and
`graph` (device_runner.py: decode steps that draw on the device, as CUDA graphs). Each is
reproducible by itself; they round differently, so the choice is part of the device class and with
it of every generation's id.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Literal, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.engine import native_gpt, native_sampler, sampler
from pipeline.errors import InvalidRequest
from pipeline.models import decode_attention
from pipeline.models.embedding import Embedding
from pipeline.models.gpt import CausalGPT, TensorReader
from pipeline.spec import GPTShape, Precision

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Backend = Literal["native", "torch", "graph"]


class _FairLock:
    """A lock that goes to whoever has waited longest; threading's may go to the last holder."""

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._is_taken = False
        self._waiting: deque[threading.Event] = deque()

    def acquire(self) -> None:
        with self._gate:
            if not self._is_taken:
                self._is_taken = True
                return
            handed_over = threading.Event()
            self._waiting.append(handed_over)
        handed_over.wait()

    def release(self) -> None:
        with self._gate:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._is_taken = False


class DeviceTurn:
    """A step's time with the device; `busy_s`, how long that was, is known when it ends."""

    __slots__ = ("_began_s", "_lock", "busy_s")

    def __init__(self, lock: _FairLock | None) -> None:
        self._lock, self.busy_s = lock, 0.0

    def __enter__(self) -> DeviceTurn:
        if self._lock is not None:
            self._lock.acquire()
        self._began_s = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.busy_s = time.monotonic() - self._began_s
        if self._lock is not None:
            self._lock.release()


class Device:
    """Where the models run: a torch device and the backend of the three transformers."""

    def __init__(self, name: str = "auto", backend: str = "auto") -> None:
        """Choose a device.

        Args:
            name: `cpu`, `cuda`, `cuda:1`, …; `auto` is CUDA where there is one.
            backend: `native`, `torch`, `graph`, or `auto`: graph on CUDA, native on CPUs that it
                supports. On a CPU graph is for proofs: it does everything, and gains nothing.

        Raises:
            InvalidRequest: no such device here, or a backend that it can not run.
        """
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        if name.startswith("cuda") and not torch.cuda.is_available():
            raise InvalidRequest(f"device {name!r} asked for, but torch sees no CUDA device here.")
        if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
            raise InvalidRequest(f"unknown device {name!r}; use cpu, cuda or cuda:N.")
        self.torch = torch.device(name)
        if self.torch.type == "cuda":
            # fp32 is the reference: no rounding to TF32, no algorithm chosen by a race
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cudnn.deterministic = True
        supported, reason = native_gpt.is_supported()
        fits = self.torch.type == "cpu" and supported
        if backend not in ("auto", "native", "torch", "graph"):
            raise InvalidRequest(f"unknown backend {backend!r}; use auto, native, torch or graph.")
        if backend == "native" and not fits:
            raise InvalidRequest(f"the native backend can not run here: {reason or name}")
        if backend == "auto":
            backend = "graph" if self.torch.type == "cuda" else "native" if fits else "torch"
        self.backend = cast(Backend, backend)
        self.is_slow_fallback = self.torch.type == "cpu" and not supported
        self.fallback_reason = f"running on torch, which is slower: {reason}"
        self._lock = _FairLock()

    def turn(self) -> DeviceTurn:
        """Have the device for one step.

        On a CPU one model computes at a time, with all cores: two at once would wait for each
        other's threads at every barrier. A GPU has its own queue.
        """
        return DeviceTurn(self._lock if self.torch.type == "cpu" else None)

    @property
    def device_class(self) -> str:
        """Name of what rounds alike: equal on machines that must give equal bytes."""
        graph = "-graph" if self.backend == "graph" else ""
        if self.torch.type == "cuda":
            graph = graph and f"{graph}-{decode_attention.kernel_name()}"
            name = torch.cuda.get_device_name(self.torch).replace(" ", "-").lower()
            return f"cuda-{name}{graph}-torch-{torch.__version__}"
        # the codec runs on torch everywhere
        capability = torch.backends.cpu.get_cpu_capability().lower()
        library = f"torch-{torch.__version__.split('+')[0]}-{capability}"
        if self.backend == "native":
            return f"cpu-native-{library}"
        return f"cpu{graph}-{library}-threads{torch.get_num_threads()}"


class _Network(Protocol):
    def discard_cache(self) -> None: ...
    def extend(self, slot: int, start: int, hidden: Float32) -> Float32: ...
    def decode(self, slots: list[int], positions: list[int], hidden: Float32) -> Float32: ...


class CausalRunner:
    """A causal model behind an engine; fulfils `drawing.Runner`.

    Memory is bounded and known once made: the weights, and `cache_bytes` of KV cache.
    """

    def __init__(
        self,
        read: TensorReader,
        shape: GPTShape,
        *,
        device: Device,
        precision: Precision,
        num_slots: int,
        max_positions: int,
        head_range: tuple[int, int],
    ) -> None:
        """Load the weights.

        Args:
            read: canonical name → fp32 tensor.
            max_positions: of the cache, at most the model's block size.
            head_range: token ids [start, stop) that a sequence may ever draw; the head's other
                rows are not loaded.
        """
        self.num_slots, self.max_positions = num_slots, max_positions
        self.first_id = head_range[0]
        self.busy_s = 0.0
        self._device = device
        is_native = device.backend == "native"
        self._next_tokens = native_sampler.next_tokens if is_native else sampler.next_tokens
        self._tokens = Embedding(read("token_embedding.weight"), precision)
        self._positions = Embedding(read("position_embedding.weight"), "fp32")
        self._network: _Network
        if is_native:
            gpt = native_gpt.NativeGPT(
                num_layers=shape.num_layers,
                num_heads=shape.num_heads,
                width=shape.width,
                precision=precision,
                num_slots=num_slots,
                max_positions=max_positions,
                causal=True,
                num_heads_out=1,
            )
            load_native(gpt, read, shape, norm_bias=shape.has_bias)
            gpt.load_head(0, as_numpy(read("head.weight")[slice(*head_range)]))
            self.cache_bytes = gpt.cache_bytes
            self._network = _Native(gpt)
        else:
            self._gpt = CausalGPT(
                read,
                shape,
                precision=precision,
                device=device.torch,
                num_slots=num_slots,
                max_positions=max_positions,
                head_range=head_range,
            )
            self.cache_bytes = self._gpt.cache_bytes
            self._network = _Torch(self._gpt, device.torch)

    def extend(self, slot: int, start: int, tokens: Int64, added: Int64 | None) -> Float32:
        """See `drawing.Runner`. tokens int64 [P]; added int64 [A], A <= P; logits float32 [V]."""
        hidden = self._embed(start, tokens, added)
        with self._device.turn() as turn:
            logits = self._network.extend(slot, start, hidden)
        self.busy_s = turn.busy_s
        return logits

    def decode(self, slots: list[int], positions: list[int], tokens: list[int]) -> Float32:
        """See `drawing.Runner`. Three lists of B; logits float32 [B, V]."""
        hidden = self._tokens(np.asarray(tokens)) + self._positions(np.asarray(positions))
        with self._device.turn() as turn:
            logits = self._network.decode(slots, positions, hidden)
        self.busy_s = turn.busy_s
        return logits

    def draw(self, logits: Float32, asked: Sequence[sampler.Asked]) -> list[int]:
        """See `drawing.Runner`."""
        return self._next_tokens(logits, self.first_id, asked)

    def rest(self) -> None:
        """See `drawing.Runner`."""
        self._network.discard_cache()

    def _embed(self, start: int, tokens: Int64, added: Int64 | None) -> Float32:
        hidden = self._tokens(tokens)  # [P, d]
        if added is not None:
            hidden[: len(added)] += self._tokens(added)
        hidden += self._positions(np.arange(start, start + len(tokens)))
        return hidden


class _Native:
    def __init__(self, gpt: native_gpt.NativeGPT) -> None:
        self._gpt = gpt

    def discard_cache(self) -> None:
        self._gpt.discard_cache()

    def extend(self, slot: int, start: int, hidden: Float32) -> Float32:
        return self._gpt.extend(slot, start, hidden)

    def decode(self, slots: list[int], positions: list[int], hidden: Float32) -> Float32:
        rows = np.asarray(slots, np.int32)
        return self._gpt.decode(rows, np.asarray(positions, np.int32), hidden)


class _Torch:
    def __init__(self, gpt: CausalGPT, device: torch.device) -> None:
        self._gpt, self._device = gpt, device

    def discard_cache(self) -> None:
        """Keep it: the cache is one tensor, and graphs will hold its address."""

    def extend(self, slot: int, start: int, hidden: Float32) -> Float32:
        on_device = torch.from_numpy(hidden).to(self._device)
        return self._gpt.extend(slot, start, on_device).cpu().numpy()

    def decode(self, slots: list[int], positions: list[int], hidden: Float32) -> Float32:
        on_device = torch.from_numpy(hidden).to(self._device)
        return self._gpt.decode(slots, positions, on_device).cpu().numpy()


_LINEARS: Sequence[Literal["attention_in", "attention_out", "mlp_in", "mlp_out"]] = (
    "attention_in",
    "attention_out",
    "mlp_in",
    "mlp_out",
)
_NORMS: Sequence[Literal["norm_1", "norm_2"]] = ("norm_1", "norm_2")


def load_native(
    gpt: native_gpt.NativeGPT, read: TensorReader, shape: GPTShape, *, norm_bias: bool
) -> None:
    """Hand over one tensor at a time, so that no more than one is ever here in fp32."""

    def bias(name: str, has: bool) -> Float32 | None:
        return as_numpy(read(f"{name}.bias")) if has else None

    for layer in range(shape.num_layers):
        for linear in _LINEARS:
            path = f"layers.{layer}.{linear}"
            weight = as_numpy(read(f"{path}.weight"))
            gpt.load_linear(layer, linear, weight, bias(path, shape.has_bias))
        for norm in _NORMS:
            path = f"layers.{layer}.{norm}"
            gpt.load_norm(layer, norm, as_numpy(read(f"{path}.weight")), bias(path, norm_bias))
    weight = as_numpy(read("norm_final.weight"))
    gpt.load_final_norm(weight, bias("norm_final", norm_bias))


def as_numpy(tensor: torch.Tensor) -> Float32:
    return np.ascontiguousarray(tensor.numpy())
