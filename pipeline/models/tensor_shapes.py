"""Every tensor of a Bark model under our name, with its shape.

The names are ours, whatever layout a checkpoint has; the layouts translate them. Knows no files.
Sources: suno-ai/bark f4f32d4 `model.py`, `model_fine.py`; transformers 5.23 `modeling_bark.py`,
`modeling_encodec.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

from pipeline.spec import BarkSpec, CodecSpec, GPTShape

Stage = Literal["semantic", "coarse", "fine", "codec"]
STAGES: tuple[Stage, ...] = get_args(Stage)

Shape = tuple[int, ...]
Shapes = dict[str, Shape]


def tensor_shapes(spec: BarkSpec) -> dict[Stage, Shapes]:
    """Return the name and shape of every tensor that the four stages read."""
    return {
        "semantic": causal_shapes(spec.semantic.gpt),
        "coarse": causal_shapes(spec.coarse.gpt),
        "fine": fine_shapes(spec.fine.gpt, spec.fine.num_codebooks, spec.fine.num_given),
        "codec": codec_shapes(spec.codec, spec.codebook_size),
    }


def causal_shapes(gpt: GPTShape) -> Shapes:
    """Return a causal GPT's tensors: norms and linear layers have a bias if `has_bias` says so."""
    return {
        "token_embedding.weight": (gpt.input_vocab, gpt.width),
        "position_embedding.weight": (gpt.block_size, gpt.width),
        **_blocks(gpt, norm_bias=gpt.has_bias),
        "head.weight": (gpt.output_vocab, gpt.width),
    }


def fine_shapes(gpt: GPTShape, num_codebooks: int, num_given: int) -> Shapes:
    """Return the fine GPT's tensors. NOTE: its norms have a bias even where nothing else has."""
    tables = {
        f"token_embeddings.{i}.weight": (gpt.input_vocab, gpt.width) for i in range(num_codebooks)
    }
    heads = {
        f"heads.{i}.weight": (gpt.output_vocab, gpt.width) for i in range(num_codebooks - num_given)
    }
    position = {"position_embedding.weight": (gpt.block_size, gpt.width)}
    return {**tables, **position, **_blocks(gpt, norm_bias=True), **heads}


def _blocks(gpt: GPTShape, *, norm_bias: bool) -> Shapes:
    shapes: Shapes = {}

    def norm(name: str) -> None:
        shapes[f"{name}.weight"] = (gpt.width,)
        if norm_bias:
            shapes[f"{name}.bias"] = (gpt.width,)

    def linear(name: str, rows: int, columns: int) -> None:
        shapes[f"{name}.weight"] = (rows, columns)
        if gpt.has_bias:
            shapes[f"{name}.bias"] = (rows,)

    for n in range(gpt.num_layers):
        norm(f"layers.{n}.norm_1")
        linear(f"layers.{n}.attention_in", 3 * gpt.width, gpt.width)
        linear(f"layers.{n}.attention_out", gpt.width, gpt.width)
        norm(f"layers.{n}.norm_2")
        linear(f"layers.{n}.mlp_in", 4 * gpt.width, gpt.width)
        linear(f"layers.{n}.mlp_out", gpt.width, 4 * gpt.width)
    norm("norm_final")
    return shapes


def codec_shapes(codec: CodecSpec, codebook_size: int) -> Shapes:
    """Return the EnCodec decoder's tensors, weight norm folded in, and its codebooks."""
    shapes: Shapes = {
        f"codebooks.{k}": (codebook_size, codec.codebook_dim) for k in range(codec.num_codebooks)
    }
    width = codec.num_filters << len(codec.upsampling_ratios)

    def conv(name: str, weight: Shape, num_out: int) -> None:
        shapes[f"{name}.conv.weight"] = weight
        shapes[f"{name}.conv.bias"] = (num_out,)

    conv("decoder.layers.0", (width, codec.latent_dim, codec.kernel_size), width)
    for n in range(codec.num_lstm_layers):
        for kind in ("ih", "hh"):
            shapes[f"decoder.layers.1.lstm.weight_{kind}_l{n}"] = (4 * width, width)
            shapes[f"decoder.layers.1.lstm.bias_{kind}_l{n}"] = (4 * width,)
    index = 2
    for index, ratio in transposed_layers(codec):
        # NOTE: a transposed convolution keeps its input channels in dim 0.
        conv(f"decoder.layers.{index}", (width, width // 2, 2 * ratio), width // 2)
        width //= 2
        for j in range(codec.num_residual_layers):
            inner, name = width // codec.compress, f"decoder.layers.{index + 1 + j}"
            conv(f"{name}.block.1", (inner, width, codec.residual_kernel_size), inner)
            conv(f"{name}.block.3", (width, inner, 1), width)
            if codec.use_conv_shortcut:
                conv(f"{name}.shortcut", (width, width, 1), width)
    last = index + codec.num_residual_layers + 2
    conv(f"decoder.layers.{last}", (1, width, codec.last_kernel_size), 1)
    return shapes


def transposed_layers(codec: CodecSpec) -> Iterator[tuple[int, int]]:
    """Yield (index in `decoder.layers`, ratio) of each transposed convolution.

    Every stage of the decoder is an ELU, a transposed convolution and its residual blocks; the
    first convolution and the LSTM stand before them.
    """
    for n, ratio in enumerate(codec.upsampling_ratios):
        yield 3 + n * (2 + codec.num_residual_layers), ratio


def encoder_shapes(codec: CodecSpec) -> Shapes:
    """Return the EnCodec encoder's tensors. Bark never runs it; whole checkpoints hold it."""
    shapes: Shapes = {}

    def conv(index: str, num_out: int, num_in: int, kernel: int) -> None:
        shapes[f"encoder.layers.{index}.conv.weight"] = (num_out, num_in, kernel)
        shapes[f"encoder.layers.{index}.conv.bias"] = (num_out,)

    width, index = codec.num_filters, 1
    conv("0", width, 1, codec.kernel_size)
    for ratio in reversed(codec.upsampling_ratios):
        for _ in range(codec.num_residual_layers):
            inner = width // codec.compress
            conv(f"{index}.block.1", inner, width, codec.residual_kernel_size)
            conv(f"{index}.block.3", width, inner, 1)
            if codec.use_conv_shortcut:
                conv(f"{index}.shortcut", width, width, 1)
            index += 1
        conv(f"{index + 1}", 2 * width, width, 2 * ratio)
        width, index = 2 * width, index + 2
    for n in range(codec.num_lstm_layers):
        for kind in ("ih", "hh"):
            shapes[f"encoder.layers.{index}.lstm.weight_{kind}_l{n}"] = (4 * width, width)
            shapes[f"encoder.layers.{index}.lstm.bias_{kind}_l{n}"] = (4 * width,)
    conv(f"{index + 2}", codec.latent_dim, width, codec.last_kernel_size)
    return shapes
