"""The numbers in transformers' config.json and generation_config.json, as a `BarkSpec`.

A field that is absent is what transformers would take, or, for the GPTs' shapes, what the
tensors show. Knows the two files' field names, and no tensor's content.
Source: transformers 5.23 `configuration_bark.py`, `generation_configuration_bark.py`,
`configuration_encodec.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.errors import InvalidCheckpoint
from pipeline.models.settings import MAX_COUNT, Settings
from pipeline.spec import BarkSpec, CoarseSpec, CodecSpec, FineSpec, GPTShape, SemanticSpec

Shapes = Mapping[str, tuple[int, ...]]


def read_spec(
    config: Settings, generation: Settings, shapes: Mapping[str, tuple[int, ...]]
) -> BarkSpec:
    """Read a model's numbers.

    Args:
        config: config.json; generation: generation_config.json.
        shapes: every key of the weights with its shape.

    Raises:
        InvalidCheckpoint: a number is missing, of the wrong kind, or contradicts another.
    """
    semantic = generation.part("semantic_config")
    coarse = generation.part("coarse_acoustics_config")
    fine = generation.part("fine_acoustics_config")
    fine_shape = config.part("fine_acoustics_config", required=True)
    given = BarkSpec()
    eos_id = semantic.integer("eos_token_id", given.semantic.eos_id)
    num_codebooks = fine_shape.integer(
        "n_codes_total", given.fine.num_codebooks, minimum=1, maximum=MAX_COUNT
    )
    codec, codebook_size = _codec(config.part("codec_config", required=True), shapes)
    _agree(
        (generation, "codebook_size", codebook_size),
        (generation, "sample_rate", codec.sample_rate),
        (coarse, "coarse_rate_hz", codec.frame_rate_hz),
        (fine, "n_fine_codebooks", num_codebooks),
    )
    return BarkSpec(
        semantic=SemanticSpec(
            vocab_size=semantic.integer("semantic_vocab_size", given.semantic.vocab_size),
            eos_id=eos_id,
            pad_id=eos_id,  # whatever `semantic_pad_token` says: transformers does the same
            text_offset=semantic.integer("text_encoding_offset", given.semantic.text_offset),
            text_pad_id=semantic.integer("text_pad_token", given.semantic.text_pad_id),
            infer_id=semantic.integer("semantic_infer_token", given.semantic.infer_id),
            prompt_length=semantic.integer(
                "max_input_semantic_length", given.semantic.prompt_length, minimum=1
            ),
            max_new_tokens=semantic.integer(
                "max_new_tokens", given.semantic.max_new_tokens, minimum=1
            ),
            rate_hz=semantic.number("semantic_rate_hz", given.semantic.rate_hz),
            gpt=_gpt(config.part("semantic_config", required=True), "semantic", shapes),
        ),
        coarse=CoarseSpec(
            semantic_pad_id=coarse.integer(
                "coarse_semantic_pad_token", given.coarse.semantic_pad_id
            ),
            infer_id=coarse.integer("coarse_infer_token", given.coarse.infer_id),
            semantic_length=coarse.integer(
                "max_coarse_input_length", given.coarse.semantic_length, minimum=1
            ),
            max_history=coarse.integer("max_coarse_history", given.coarse.max_history, minimum=1),
            window=coarse.integer("sliding_window_len", given.coarse.window, minimum=1),
            num_codebooks=coarse.integer(
                "n_coarse_codebooks", given.coarse.num_codebooks, minimum=1
            ),
            gpt=_gpt(
                config.part("coarse_acoustics_config", required=True), "coarse_acoustics", shapes
            ),
        ),
        fine=FineSpec(
            window=fine.integer("max_fine_input_length", given.fine.window, minimum=1),
            history=fine.integer("max_fine_history_length", given.fine.history, minimum=1),
            num_codebooks=num_codebooks,
            num_given=fine_shape.integer("n_codes_given", given.fine.num_given, minimum=1),
            gpt=_gpt(fine_shape, "fine_acoustics", shapes),
        ),
        codec=codec,
        codebook_size=codebook_size,
        sample_rate=codec.sample_rate,
    )


def _agree(*claims: tuple[Settings, str, float]) -> None:
    """Check numbers that generation_config.json repeats from config.json."""
    for generation, key, value in claims:
        if generation.number(key, value) != value:
            raise InvalidCheckpoint(
                f"{generation.name(key)} is {generation.values[key]}, but config.json makes it "
                f"{value:g}: the two files are of two different models"
            )


def _gpt(config: Settings, prefix: str, shapes: Shapes) -> GPTShape:
    """Read one GPT's shape; what is absent is read off the tensors."""
    given = GPTShape()
    table = "input_embeds_layers.0" if prefix == "fine_acoustics" else "input_embeds_layer"
    head = "lm_heads.0" if f"{prefix}.lm_heads.0.weight" in shapes else "lm_head"

    def rows(name: str, default: int) -> int:
        return next(iter(shapes.get(f"{prefix}.{name}.weight", ())), default)

    input_vocab = config.integer("input_vocab_size", rows(table, given.input_vocab), minimum=1)
    tied = input_vocab if prefix == "fine_acoustics" else given.output_vocab
    layers = {key.split(".")[2] for key in shapes if key.startswith(f"{prefix}.layers.")}
    has_bias = f"{prefix}.layers.0.attn.att_proj.bias" in shapes
    shape = GPTShape(
        num_layers=config.integer("num_layers", len(layers), minimum=1, maximum=MAX_COUNT),
        num_heads=config.integer("num_heads", given.num_heads, minimum=1),
        width=config.integer("hidden_size", rows("layernorm_final", given.width), minimum=1),
        block_size=config.integer(
            "block_size", rows("position_embeds_layer", given.block_size), minimum=1
        ),
        input_vocab=input_vocab,
        output_vocab=config.integer("output_vocab_size", rows(head, tied), minimum=1),
        has_bias=config.flag("bias", has_bias),
    )
    if shape.width % shape.num_heads:
        raise InvalidCheckpoint(
            f"{config.name('hidden_size')} is {shape.width}, which num_heads = {shape.num_heads} "
            "does not divide"
        )
    return shape


def _codec(config: Settings, shapes: Shapes) -> tuple[CodecSpec, int]:
    """Read the codec's shape and its codebooks' size."""
    given = CodecSpec()
    _require_24khz_kind(config)
    latent_dim = config.integer("hidden_size", given.latent_dim, minimum=1)
    prefix = "codec_model.quantizer.layers."
    stored = {key.removeprefix(prefix).split(".")[0] for key in shapes if key.startswith(prefix)}
    codec = CodecSpec(
        sample_rate=config.integer("sampling_rate", given.sample_rate, minimum=1),
        num_filters=config.integer("num_filters", given.num_filters, minimum=1),
        latent_dim=latent_dim,
        codebook_dim=config.integer("codebook_dim", latent_dim, minimum=1),
        num_codebooks=len(stored),
        upsampling_ratios=config.integers("upsampling_ratios", given.upsampling_ratios),
        kernel_size=config.integer("kernel_size", given.kernel_size, minimum=1),
        last_kernel_size=config.integer("last_kernel_size", given.last_kernel_size, minimum=1),
        residual_kernel_size=config.integer(
            "residual_kernel_size", given.residual_kernel_size, minimum=1
        ),
        num_residual_layers=config.integer(
            "num_residual_layers", given.num_residual_layers, maximum=MAX_COUNT
        ),
        dilation_growth_rate=config.integer(
            "dilation_growth_rate", given.dilation_growth_rate, minimum=1
        ),
        compress=config.integer("compress", given.compress, minimum=1),
        num_lstm_layers=config.integer(
            "num_lstm_layers", given.num_lstm_layers, minimum=1, maximum=MAX_COUNT
        ),
        use_conv_shortcut=config.flag("use_conv_shortcut", given.use_conv_shortcut),
    )
    if codec.codebook_dim != latent_dim:
        raise InvalidCheckpoint(
            f"{config.name('codebook_dim')} is {codec.codebook_dim}, but hidden_size is "
            f"{latent_dim}: EnCodec's codebooks are as wide as its latent"
        )
    return codec, config.integer("codebook_size", BarkSpec().codebook_size, minimum=2)


def _require_24khz_kind(config: Settings) -> None:
    """Refuse the kinds of EnCodec that Bark never had and our decoder is not."""
    wanted: dict[str, object] = {
        "norm_type": "weight_norm",
        "pad_mode": "reflect",
        "use_causal_conv": True,
        "trim_right_ratio": 1.0,
        "audio_channels": 1,
        "normalize": False,
    }
    for key, value in wanted.items():
        if key in config and config.values[key] != value:
            raise InvalidCheckpoint(
                f"{config.name(key)} is {config.values[key]!r}, expected {value!r}: only "
                "the causal mono EnCodec (24 kHz) that Bark was trained with can be decoded"
            )
