"""The three transformers as torch modules, to be trained; `export` gives them their final names.

The same network as `pipeline.models.gpt`, which is for inference alone: no biases, GELU, learnt
positions, norms before. The fine model's norms have biases, as Bark's do.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.spec import FineSpec, GPTShape


class Attention(nn.Module):
    def __init__(self, gpt: GPTShape) -> None:
        super().__init__()
        self.heads = gpt.num_heads
        self.qkv = nn.Linear(gpt.width, 3 * gpt.width, bias=False)
        self.out = nn.Linear(gpt.width, gpt.width, bias=False)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        B, T, D = x.shape
        q, k, v = (
            part.view(B, T, self.heads, D // self.heads).transpose(1, 2)  # [B, H, T, D]
            for part in self.qkv(x).split(D, dim=2)
        )
        if causal and x.device.type == "cpu":
            y = _causal_attention(q, k, v)
        else:
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return cast(Tensor, self.out(y.transpose(1, 2).reshape(B, T, D)))


def _causal_attention(q: Tensor, k: Tensor, v: Tensor, block: int = 108) -> Tensor:
    """Attend a block of queries at a time, only to keys that some of them may see.

    On one core, forward and backward of [14, 4, 428, 64] in bf16 take 69 ms, torch's own kernel
    135 ms.
    """
    T, parts = q.shape[2], []
    q = q * q.shape[-1] ** -0.5
    for first in range(0, T, block):
        last = min(first + block, T)
        scores = q[:, :, first:last] @ k[:, :, :last].transpose(2, 3)
        ahead = torch.triu(scores.new_full((last - first, last), -torch.inf), 1 + first)
        parts.append(torch.softmax(scores + ahead, dim=-1).to(v.dtype) @ v[:, :, :last])
    return torch.cat(parts, dim=2)


class Block(nn.Module):
    def __init__(self, gpt: GPTShape, norm_bias: bool) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(gpt.width, bias=norm_bias)
        self.attention = Attention(gpt)
        self.norm_2 = nn.LayerNorm(gpt.width, bias=norm_bias)
        self.mlp_in = nn.Linear(gpt.width, 4 * gpt.width, bias=False)
        self.mlp_out = nn.Linear(4 * gpt.width, gpt.width, bias=False)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        x = x + self.attention(self.norm_1(x), causal)
        return cast(Tensor, x + self.mlp_out(functional.gelu(self.mlp_in(self.norm_2(x)))))


class _Trunk(nn.Module):
    """Blocks and positions: what the causal and the fine model share."""

    def __init__(self, gpt: GPTShape, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.position_embedding = nn.Embedding(gpt.block_size, gpt.width)
        self.layers = nn.ModuleList(Block(gpt, norm_bias=not causal) for _ in range(gpt.num_layers))
        self.norm_final = nn.LayerNorm(gpt.width, bias=not causal)

    def run(self, x: Tensor) -> Tensor:
        x = x + self.position_embedding.weight[: x.shape[1]]
        for layer in self.layers:
            x = layer(x, self.causal)
        return cast(Tensor, self.norm_final(x))

    def initialise(self, num_layers: int) -> None:
        """Draw small weights; what ends in the residual stream is smaller the deeper (GPT-2)."""
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                ends = name.endswith(("attention.out.weight", "mlp_out.weight"))
                nn.init.normal_(weight, std=0.02 / ((2 * num_layers) ** 0.5 if ends else 1.0))


class CausalGPT(_Trunk):
    """The semantic and the coarse model."""

    def __init__(self, gpt: GPTShape) -> None:
        super().__init__(gpt, causal=True)
        self.token_embedding = nn.Embedding(gpt.input_vocab, gpt.width)
        self.head = nn.Linear(gpt.width, gpt.output_vocab, bias=False)
        self.initialise(gpt.num_layers)

    def forward(
        self, tokens: Tensor, added: Tensor | None, first: int, low: int, high: int
    ) -> Tensor:
        """Return the logits of the ids low…high - 1 from position `first` on.

        Args:
            tokens: int64 [B, T]. added: int64 [B, A] or None, summed onto the first A positions.
        """
        table, head = self.tables()
        x = functional.embedding(tokens, table)
        if added is not None:
            summed = x[:, : added.shape[1]] + functional.embedding(added, table)
            x = torch.cat([summed, x[:, added.shape[1] :]], dim=1)
        return functional.linear(self.run(x)[:, first:], head[low:high])

    def tables(self) -> tuple[Tensor, Tensor]:
        """Return the input table [V, D] and the output table [W, D], as inference knows them."""
        return self.token_embedding.weight, self.head.weight


class PhasedGPT(CausalGPT):
    """The semantic model: a token is a state of a phoneme and a phase, and its row their sum.

    Of the tables' first `num_states * num_phases` rows only the first `num_states` are used.
    """

    def __init__(self, gpt: GPTShape, num_states: int, num_phases: int) -> None:
        super().__init__(gpt)
        self.num_states = num_states
        self.phases_in = nn.Parameter(0.02 * torch.randn(num_phases, gpt.width))
        self.phases_out = nn.Parameter(0.02 * torch.randn(num_phases, gpt.width))

    def tables(self) -> tuple[Tensor, Tensor]:
        return (
            phased_rows(self.token_embedding.weight, self.phases_in, self.num_states),
            phased_rows(self.head.weight, self.phases_out, self.num_states),
        )


def phased_rows(table: Tensor, phases: Tensor, num_states: int) -> Tensor:
    """Spell out every phase's rows; the rows after them stay as they are."""
    states = table[:num_states] + phases[:, None]  # [phases, states, D]
    return torch.cat([states.flatten(0, 1), table[num_states * len(phases) :]])


class FineGPT(_Trunk):
    """The fine model: codebook k from all before it; its output tables are its input tables."""

    def __init__(self, spec: FineSpec) -> None:
        super().__init__(spec.gpt, causal=False)
        self.token_embeddings = nn.ModuleList(
            nn.Embedding(spec.gpt.input_vocab, spec.gpt.width) for _ in range(spec.num_codebooks)
        )
        self.initialise(spec.gpt.num_layers)

    def forward(self, codes: Tensor, k: int) -> Tensor:
        """Return the logits of codebook k: codes int64 [B, T, k + 1] → [B, T, V].

        The head of codebook k is the table of k as in Bark: `lm_heads[k - 1]` is `wtes[k]`.
        """
        x = sum(self.token_embeddings[i](codes[..., i]) for i in range(k + 1))
        return functional.linear(
            self.run(cast(Tensor, x)), cast(Tensor, self.token_embeddings[k].weight)
        )
