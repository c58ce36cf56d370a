"""The transformer block and the two GPTs, as plain functions of tensors: the portable path.

`CausalGPT` (semantic, coarse) has a static KV cache by slot; `BidirectionalGPT` (fine) has none.
Both take hidden vectors (embeddings already summed) and give fp32 logits. The residual stream,
norms, softmax and logits are fp32 in every precision. Source: bark/model.py, model_fine.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.models.decode_attention import attend
from pipeline.models.linear import Linear
from pipeline.spec import GPTShape, Precision

TensorReader = Callable[[str], Tensor]  # canonical name → fp32 tensor of its own
NORM_EPS = 1e-5


class Norm:
    """Layer norm in fp32; the bias is optional."""

    def __init__(self, read: TensorReader, name: str, has_bias: bool, device: torch.device) -> None:
        self._weight = read(f"{name}.weight").to(device)
        self._bias = read(f"{name}.bias").to(device) if has_bias else None

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self._weight, self._bias, NORM_EPS)


class Block:
    """One pre-norm block; attention itself is handed in."""

    def __init__(
        self,
        read: TensorReader,
        layer: int,
        shape: GPTShape,
        norm_bias: bool,
        precision: Precision,
        device: torch.device,
    ) -> None:
        def linear(name: str) -> Linear:
            path = f"layers.{layer}.{name}"
            bias = read(f"{path}.bias") if shape.has_bias else None
            return Linear(read(f"{path}.weight"), bias, precision, device)

        self._heads = shape.num_heads
        self.norm_1 = Norm(read, f"layers.{layer}.norm_1", norm_bias, device)
        self.norm_2 = Norm(read, f"layers.{layer}.norm_2", norm_bias, device)
        self.attention_in, self.attention_out = linear("attention_in"), linear("attention_out")
        self.mlp_in, self.mlp_out = linear("mlp_in"), linear("mlp_out")

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k, v, each fp32 [H, R, D]."""
        qkv = self.attention_in(self.norm_1(x))  # [R, 3 H D]
        q, k, v = qkv.view(x.shape[0], 3, self._heads, -1).permute(1, 2, 0, 3)
        return q, k, v

    def rest(self, x: Tensor, attended: Tensor) -> Tensor:
        """Finish the block: x [R, H D], attended [H, R, D] → [R, H D]."""
        x = x + self.attention_out(attended.transpose(0, 1).reshape(x.shape))
        return x + self.mlp_out(functional.gelu(self.mlp_in(self.norm_2(x))))


class CausalGPT:
    """A causal GPT with a static KV cache of `num_slots` rows."""

    def __init__(
        self,
        read: TensorReader,
        shape: GPTShape,
        *,
        precision: Precision,
        device: torch.device,
        num_slots: int,
        max_positions: int,
        head_range: tuple[int, int],
    ) -> None:
        self._device, self._num_slots = device, num_slots
        self._blocks = [
            Block(read, layer, shape, shape.has_bias, precision, device)
            for layer in range(shape.num_layers)
        ]
        self._norm = Norm(read, "norm_final", shape.has_bias, device)
        self._head = Linear(read("head.weight")[slice(*head_range)], None, precision, device)
        cache = (shape.num_layers, 2, num_slots, shape.num_heads, max_positions, shape.head_dim)
        self._cache_dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        self._cache = torch.zeros(cache, dtype=self._cache_dtype, device=device)

    @property
    def cache_bytes(self) -> int:
        return self._cache.numel() * self._cache.element_size()

    @torch.inference_mode()
    def extend(self, slot: int, start: int, hidden: Tensor) -> Tensor:
        """Run P positions of one sequence at their own length; logits [V] of the last one."""
        x, stop = hidden, start + hidden.shape[0]
        mask = None
        if start and hidden.shape[0] > 1:
            seen = torch.arange(stop, device=self._device)
            mask = seen <= torch.arange(start, stop, device=self._device)[:, None]
        for block, cache in zip(self._blocks, self._cache, strict=True):
            q, k, v = block.qkv(x)
            cache[0, slot, :, start:stop] = k
            cache[1, slot, :, start:stop] = v
            keys, values = cache[0, slot, :, :stop], cache[1, slot, :, :stop]
            attended = functional.scaled_dot_product_attention(
                q.to(keys.dtype), keys, values, mask, is_causal=not start
            )
            x = block.rest(x, attended.float())
        return self._head(self._norm(x[-1:]))[0]

    @torch.inference_mode()
    def decode(self, slots: list[int], positions: list[int], hidden: Tensor) -> Tensor:
        """Run one position for each of B sequences; hidden [B, H D] → logits [B, V].

        The products always run over all slots, so that their shape, and with it the kernel and
        its rounding, does not depend on how many sequences there are.
        """
        x = torch.zeros(self._num_slots, hidden.shape[1], device=self._device)
        x[slots] = hidden
        for block, cache in zip(self._blocks, self._cache, strict=True):
            q, k, v = block.qkv(x)  # [H, S, D]
            attended = torch.zeros_like(q)
            for slot, position in zip(slots, positions, strict=True):
                cache[0, slot, :, position] = k[:, slot]
                cache[1, slot, :, position] = v[:, slot]
                stop = position + 1
                keys, values = cache[0, slot, :, :stop], cache[1, slot, :, :stop]
                attended[:, slot] = functional.scaled_dot_product_attention(
                    q[:, slot : slot + 1].to(keys.dtype), keys, values
                )[:, 0].float()
            x = block.rest(x, attended)
        return self._head(self._norm(x))[slots]

    @torch.inference_mode()
    def step(self, hidden: Tensor, positions: Tensor, live: Tensor) -> Tensor:
        """Run one position of every slot, in operations of fixed shapes that never wait.

        So a CUDA graph can hold it: which rows are live is data. It rounds otherwise than
        `decode` where the attention of the two does.

        Args:
            hidden: fp32 [S, H D].
            positions: int64 [S], where each row's keys and values go. live: bool [S]; the other
                rows compute, and leave their slot's cache as it is.

        Returns:
            fp32 [S, V]; means nothing for rows that are not live.
        """
        x, slots = hidden, torch.arange(self._num_slots, device=self._device)
        lengths = torch.where(live, positions + 1, torch.zeros_like(positions))
        places = positions.clamp(max=self._cache.shape[4] - 1)
        for block, cache in zip(self._blocks, self._cache, strict=True):
            q, k, v = block.qkv(x)  # [H, S, D]
            for kept, new in zip(cache, (k, v), strict=True):
                before = kept[slots, :, places]  # [S, H, D]
                after = new.transpose(0, 1).to(self._cache_dtype)
                kept[slots, :, places] = torch.where(live[:, None, None], after, before)
            attended = attend(q.transpose(0, 1), cache[0], cache[1], lengths)  # [S, H, D]
            x = block.rest(x, attended.transpose(0, 1))
        return self._head(self._norm(x))


class BidirectionalGPT:
    """A GPT in which every position sees every other, with several heads."""

    def __init__(
        self,
        read: TensorReader,
        shape: GPTShape,
        *,
        num_heads_out: int,
        head_stop: int,
        precision: Precision,
        device: torch.device,
    ) -> None:
        # NOTE: the fine model's norms have a bias even where its linears have none
        self._blocks = [
            Block(read, layer, shape, True, precision, device) for layer in range(shape.num_layers)
        ]
        self._norm = Norm(read, "norm_final", True, device)
        self._dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        self._heads = [
            Linear(read(f"heads.{i}.weight")[:head_stop], None, precision, device)
            for i in range(num_heads_out)
        ]

    @torch.inference_mode()
    def encode(self, hidden: Tensor, head: int, first: int, last: int) -> Tensor:
        """Run all T positions; return logits [last - first, V] of positions first…last-1."""
        return self.logits(self.trunk(hidden[None])[0, first:last], head)

    @torch.inference_mode()
    def trunk(self, hidden: Tensor) -> Tensor:
        """Run B windows of T positions: [B, T, H D] → the same, without the final norm."""
        windows, length, width = hidden.shape
        x = hidden.reshape(windows * length, width)
        for block in self._blocks:
            q, k, v = (
                part.to(self._dtype).reshape(-1, windows, length, part.shape[-1]).transpose(0, 1)
                for part in block.qkv(x)
            )  # [B, H, T, D]
            attended = functional.scaled_dot_product_attention(q, k, v).float()
            x = block.rest(x, attended.transpose(0, 1).flatten(1, 2))
        return x.view(windows, length, width)

    @torch.inference_mode()
    def logits(self, hidden: Tensor, head: int) -> Tensor:
        """Return logits [R, V] of positions [R, H D] that went through `trunk`."""
        return self._heads[head](self._norm(hidden))
