"""GPT forward passes on CPU kernels of our own: the Python side of `pipeline/engine/native/`.

Holds one network's packed weights and key-value cache in the library and checks every argument on
the way there. Takes hidden vectors (token and position embeddings already summed), gives logits:
knows no tokens, no sampling, no torch. A position's result depends on its own prefix alone: not on
the batch, the slot, how the prompt was cut into `extend` calls, or the number of threads.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.engine.native.loader import default_num_threads, is_supported, kernels

__all__ = ["NativeGPT", "Precision", "default_num_threads", "is_supported"]

Precision = Literal["fp32", "bf16", "int8"]
LinearName = Literal["attention_in", "attention_out", "mlp_in", "mlp_out"]
NormName = Literal["norm_1", "norm_2"]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

# The library knows these by their index.
PRECISIONS = ("fp32", "bf16", "int8")
LINEARS = ("attention_in", "attention_out", "mlp_in", "mlp_out")
NORMS = ("norm_1", "norm_2")
FINAL_NORM = 2

MAX_HEAD_DIM = 1024


class NativeGPT:
    """One network, causal or bidirectional, with pre-norm blocks as in GPT-2.

    Calls from several threads are safe and run one after another: all networks of the process share
    one pool of threads. Arrays are copied on the way in, results are the caller's.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_heads: int,
        width: int,
        precision: Precision,
        num_slots: int,
        max_positions: int,
        causal: bool,
        num_heads_out: int,
        num_threads: int | None = None,
    ) -> None:
        """Reserve the memory; `load_*` fills in the weights.

        Args:
            num_layers: blocks.
            num_heads: attention heads; head size is width / num_heads.
            width: channels of the residual stream.
            precision: of weights and products; the cache is as they are, but values bf16 for int8.
            num_slots: rows of the key-value cache (causal; a bidirectional network keeps none).
            max_positions: longest sequence.
            causal: `extend` and `decode` if true, `encode` if false.
            num_heads_out: output heads, 1 for a causal network.
            num_threads: sets the size of the process's pool, for all networks. None leaves it, at
                first OMP_NUM_THREADS or the CPUs that this process may use.

        Raises:
            ValueError: an argument is out of range.
            RuntimeError: the kernels cannot run here (`is_supported`).
            MemoryError: the system refuses the memory.
        """
        supported, reason = is_supported()
        if not supported:
            raise RuntimeError(f"native kernels are unavailable: {reason}")
        for name, value in (
            ("num_layers", num_layers),
            ("num_heads", num_heads),
            ("width", width),
            ("max_positions", max_positions),
            ("num_heads_out", num_heads_out),
        ):
            _require(value >= 1, f"{name} must be at least 1, got {value}")
        _require(precision in PRECISIONS, f"precision must be one of {PRECISIONS}: {precision!r}")
        _require(width % num_heads == 0, f"width {width} does not divide by {num_heads} heads")
        _require(width // num_heads <= MAX_HEAD_DIM, f"head size is over {MAX_HEAD_DIM}")
        _require(num_slots >= int(causal), "a causal network needs a slot")
        _require(not causal or num_heads_out == 1, "a causal network has one output head")
        _require(num_threads is None or num_threads >= 1, "num_threads must be at least 1")
        self.num_layers = num_layers
        self.width = width
        self.num_slots = num_slots if causal else 0
        self.max_positions = max_positions
        self.causal = causal
        self._columns = [0] * num_heads_out  # of each output head; 0 until it is loaded
        self._missing = {
            f"{name} of layer {i}" for i in range(num_layers) for name in (*LINEARS, *NORMS)
        }
        self._missing.add("the final norm")
        self._library = kernels()
        if num_threads is not None:
            self._library.bark_set_num_threads(num_threads)
        self._handle: int | None = self._library.bark_gpt_new(
            num_layers,
            num_heads,
            width,
            PRECISIONS.index(precision),
            self.num_slots,
            max_positions,
            int(causal),
            num_heads_out,
        )
        if self._handle is None:
            raise MemoryError("no memory for the network's weights and cache")

    @property
    def weight_bytes(self) -> int:
        """Bytes of the packed weights so far."""
        return int(self._library.bark_gpt_weight_bytes(self._open()))

    @property
    def cache_bytes(self) -> int:
        """Bytes of the key-value memory when every slot is full; untouched slots cost nothing."""
        return int(self._library.bark_gpt_cache_bytes(self._open()))

    def load_linear(
        self, layer: int, name: LinearName, weight: Floats, bias: Floats | None
    ) -> None:
        """Pack one linear layer. Weight: float32 [out, in]; bias: float32 [out]."""
        self._check_layer(layer)
        _require(name in LINEARS, f"no linear layer {name!r}, there are {LINEARS}")
        columns = self.width * {"attention_in": 3, "mlp_in": 4}.get(name, 1)
        depth = self.width * (4 if name == "mlp_out" else 1)
        _check_floats(f"weight of {name}", weight, (columns, depth))
        if bias is not None:
            _check_floats(f"bias of {name}", bias, (columns,))
        self._library.bark_gpt_load_linear(
            self._open(), layer, LINEARS.index(name), weight.ctypes.data, _address(bias)
        )
        self._missing.discard(f"{name} of layer {layer}")

    def load_norm(self, layer: int, name: NormName, weight: Floats, bias: Floats | None) -> None:
        """Take one layer norm. Weight and bias: float32 [width]."""
        self._check_layer(layer)
        _require(name in NORMS, f"no norm {name!r}, there are {NORMS}")
        self._load_norm(layer, NORMS.index(name), weight, bias)
        self._missing.discard(f"{name} of layer {layer}")

    def load_final_norm(self, weight: Floats, bias: Floats | None) -> None:
        """Take the norm before the output heads. Weight and bias: float32 [width]."""
        self._load_norm(0, FINAL_NORM, weight, bias)
        self._missing.discard("the final norm")

    def load_head(self, index: int, weight: Floats) -> None:
        """Pack one output head. Weight: float32 [V, width], V of this head's own."""
        _require(0 <= index < len(self._columns), f"no output head {index}")
        columns = weight.shape[0] if weight.ndim == 2 else 0
        _require(columns >= 1, f"weight of a head must be [V, width], got {weight.shape}")
        _check_floats("weight of a head", weight, (columns, self.width))
        _check_memory(
            self._library.bark_gpt_load_head(self._open(), index, columns, weight.ctypes.data)
        )
        self._columns[index] = columns

    def extend(self, slot: int, start: int, hidden: Floats) -> Floats:
        """Run P new positions of one sequence and write their keys and values.

        Args:
            slot: row of the cache.
            start: position of the first new one; 0 begins a sequence, whatever the slot held.
            hidden: float32 [P, width].

        Returns:
            float32 [V], logits of the last position.
        """
        self._check_ready(causal=True, head=0)
        num = self._check_hidden(hidden)
        _require(0 <= slot < self.num_slots, f"no slot {slot}, there are {self.num_slots}")
        _require(
            start >= 0 and start + num <= self.max_positions,
            f"positions {start} to {start + num} are outside 0 to {self.max_positions}",
        )
        logits = np.empty(self._columns[0], np.float32)
        _check_memory(
            self._library.bark_gpt_extend(
                self._open(),
                slot,
                start,
                num,
                hidden.ctypes.data,
                self._columns[0],
                logits.ctypes.data,
            )
        )
        return logits

    def decode(self, slots: Ints, positions: Ints, hidden: Floats) -> Floats:
        """Run one new position for each of B sequences; the weights are read once for all.

        Args:
            slots: int32 [B], all different.
            positions: int32 [B]; each slot must hold all earlier positions of its sequence.
            hidden: float32 [B, width].

        Returns:
            float32 [B, V] logits.
        """
        self._check_ready(causal=True, head=0)
        num = self._check_hidden(hidden)
        _check_ints("positions", positions, num, self.max_positions)
        rows = _check_ints("slots", slots, num, self.num_slots)
        if len(set(rows)) != num:
            raise ValueError(f"slots must differ, got {rows}")
        logits = np.empty((num, self._columns[0]), np.float32)
        _check_memory(
            self._library.bark_gpt_decode(
                self._open(),
                slots.ctypes.data,
                positions.ctypes.data,
                num,
                hidden.ctypes.data,
                self._columns[0],
                logits.ctypes.data,
            )
        )
        return logits

    def encode(self, hidden: Floats, head: int, first: int, last: int) -> Floats:
        """Run T positions that all see each other, and one output head.

        Args:
            hidden: float32 [T, width].
            head: which output head.
            first: first position whose logits are wanted.
            last: the position after the last one wanted.

        Returns:
            float32 [last - first, V of the head].
        """
        _require(0 <= head < len(self._columns), f"no output head {head}")
        self._check_ready(causal=False, head=head)
        num = self._check_hidden(hidden)
        _require(num <= self.max_positions, f"{num} positions, at most {self.max_positions}")
        _require(0 <= first < last <= num, f"positions {first} to {last} of {num}")
        logits = np.empty((last - first, self._columns[head]), np.float32)
        _check_memory(
            self._library.bark_gpt_encode(
                self._open(),
                num,
                hidden.ctypes.data,
                head,
                first,
                last,
                self._columns[head],
                logits.ctypes.data,
            )
        )
        return logits

    def discard_cache(self) -> None:
        """Give the memory of all slots back to the system; their sequences are forgotten."""
        self._library.bark_gpt_discard_cache(self._open())

    def close(self) -> None:
        """Free weights and cache; further calls raise ValueError. May be called twice."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._library.bark_gpt_delete(handle)

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self.close()

    def _open(self) -> int:
        if self._handle is None:
            raise ValueError("this network is closed")
        return self._handle

    def _load_norm(self, layer: int, which: int, weight: Floats, bias: Floats | None) -> None:
        _check_floats("weight of a norm", weight, (self.width,))
        if bias is not None:
            _check_floats("bias of a norm", bias, (self.width,))
        self._library.bark_gpt_load_norm(
            self._open(), layer, which, weight.ctypes.data, _address(bias)
        )

    def _check_layer(self, layer: int) -> None:
        _require(0 <= layer < self.num_layers, f"no layer {layer}, there are {self.num_layers}")

    def _check_hidden(self, hidden: Floats) -> int:
        num = hidden.shape[0] if hidden.ndim == 2 else 0
        if num < 1:
            raise ValueError(f"hidden must be [rows, {self.width}], got {hidden.shape}")
        _check_array("hidden", hidden, (num, self.width))
        return num

    def _check_ready(self, *, causal: bool, head: int) -> None:
        self._open()
        _require(
            self.causal == causal,
            "a causal network has extend and decode, a bidirectional one encode",
        )
        if self._missing:
            raise ValueError(f"not loaded: {', '.join(sorted(self._missing))}")
        _require(self._columns[head] > 0, f"output head {head} is not loaded")


def _require(is_true: bool, message: str) -> None:
    if not is_true:
        raise ValueError(message)


# These two are called at every step: what is told of an error is put together only for one.
def _check_array(name: str, array: Floats, shape: tuple[int, ...]) -> None:
    if array.dtype == np.float32 and array.shape == shape and array.flags.c_contiguous:
        return
    raise ValueError(
        f"{name} must be C-contiguous float32 {list(shape)}, got {array.dtype} "
        f"{list(array.shape)}{'' if array.flags.c_contiguous else ', not contiguous'}"
    )


def _check_ints(name: str, array: Ints, num: int, limit: int) -> list[int]:
    if array.dtype != np.int32 or array.shape != (num,) or not array.flags.c_contiguous:
        raise ValueError(
            f"{name} must be contiguous int32 [{num}], got {array.dtype} {array.shape}"
        )
    values: list[int] = array.tolist()
    if min(values) < 0 or max(values) >= limit:
        raise ValueError(f"{name} must be in 0 to {limit - 1}, got {values}")
    return values


def _check_floats(name: str, array: Floats, shape: tuple[int, ...]) -> None:
    _check_array(name, array, shape)
    # Quantising would turn a NaN into an ordinary number.
    _require(bool(np.isfinite(array).all()), f"{name} holds values that are not finite")


def _address(array: Floats | None) -> int | None:
    return None if array is None else array.ctypes.data


def _check_memory(status: int) -> None:
    if status != 0:
        raise MemoryError("no memory for the working arrays of a pass")
