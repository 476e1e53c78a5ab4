"""What the parts of a model are called in published files.

Functions take a name of ours and give the `Piece` of the file that holds it; tables pair prefixes, ours first. Checked
against diffusers' own converters and against the official code (tests/parity).
"""

from collections.abc import Sequence

from imagedream.checkpoints.tensors import Piece

Table = Sequence[tuple[str, str]]


def replace_prefix(name: str, table: Table) -> str:
    """The name with its longest known prefix (up to a dot) replaced; unchanged if none is known."""
    fitting = [(ours, theirs) for ours, theirs in table if name == ours or name.startswith(f"{ours}.")]
    if not fitting:
        return name
    ours, theirs = max(fitting, key=lambda pair: len(pair[0]))
    return theirs + name[len(ours) :]


_RESNET = (
    *(("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("time_emb_proj", "emb_layers.1")),
    *(("norm2", "out_layers.0"), ("conv2", "out_layers.3"), ("conv_shortcut", "skip_connection")),
)


def ldm_unet_table(layers: int, attention_down: Sequence[bool]) -> Table:
    """Modules of `UNet2DConditionModel` in the latent-diffusion code, which numbers all layers through.

    Args:
        layers: residual blocks a level.
        attention_down: for each level from the finest, whether it has attention.
    """
    levels = len(attention_down)
    table = [
        *(("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2")),
        *(("class_embedding.linear_1", "camera_embed.0"), ("class_embedding.linear_2", "camera_embed.2")),
        *(("conv_in", "input_blocks.0.0"), ("conv_norm_out", "out.0"), ("conv_out", "out.2")),
    ]

    def block(ours: str, theirs: str) -> None:
        table.extend((f"{ours}.{a}", f"{theirs}.{b}") for a, b in _RESNET)

    for level in range(levels):
        for layer in range(layers):
            number = 1 + level * (layers + 1) + layer
            block(f"down_blocks.{level}.resnets.{layer}", f"input_blocks.{number}.0")
            table.append((f"down_blocks.{level}.attentions.{layer}", f"input_blocks.{number}.1"))
        table.append(
            (f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{(level + 1) * (layers + 1)}.0.op")
        )
    block("mid_block.resnets.0", "middle_block.0")
    table.append(("mid_block.attentions.0", "middle_block.1"))
    block("mid_block.resnets.1", "middle_block.2")
    for level in range(levels):
        for layer in range(layers + 1):
            number = level * (layers + 1) + layer
            block(f"up_blocks.{level}.resnets.{layer}", f"output_blocks.{number}.0")
            table.append((f"up_blocks.{level}.attentions.{layer}", f"output_blocks.{number}.1"))
        after = (
            2 if attention_down[levels - 1 - level] else 1
        )  # the upsampler comes after the attention, if any
        table.append((f"up_blocks.{level}.upsamplers.0.conv", f"output_blocks.{number}.{after}.conv"))
    return table


def ldm_vae_table(levels: int, layers: int) -> Table:
    """Modules of `AutoencoderKL` in the latent-diffusion code, whose decoder counts levels from the finest."""
    table = [("encoder.conv_norm_out", "encoder.norm_out"), ("decoder.conv_norm_out", "decoder.norm_out")]
    for half in ("encoder", "decoder"):
        attention = f"{half}.mid_block.attentions.0", f"{half}.mid.attn_1"
        table += [
            (f"{attention[0]}.{ours}", f"{attention[1]}.{theirs}")
            for ours, theirs in (
                *(
                    ("group_norm", "norm"),
                    ("to_q", "q"),
                    ("to_k", "k"),
                    ("to_v", "v"),
                    ("to_out.0", "proj_out"),
                ),
            )
        ]
        table += [(f"{half}.mid_block.resnets.{index}", f"{half}.mid.block_{index + 1}") for index in (0, 1)]
    for level in range(levels):
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{levels - 1 - level}"
        for layer in range(layers + 1):
            pairs = [(up, "decoder.up")] + ([(down, "encoder.down")] if layer < layers else [])
            for ours, theirs in pairs:
                resnet = f"{ours}.resnets.{layer}", f"{theirs}.{level}.block.{layer}"
                table += [resnet, (f"{resnet[0]}.conv_shortcut", f"{resnet[1]}.nin_shortcut")]
        table.append((f"{down}.downsamplers.0.conv", f"encoder.down.{level}.downsample.conv"))
        table.append((f"{up}.upsamplers.0.conv", f"decoder.up.{level}.upsample.conv"))
    return table


def ldm_vae_piece(name: str, table: Table) -> Piece:
    """A name of `AutoencoderKL` in the latent-diffusion code, where attention is made of 1×1 convolutions."""
    return Piece((replace_prefix(name, table),), pointwise=".attentions." in name and ".to_" in name)


def resampler_piece(name: str) -> Piece:
    """A name of `IPAdapterPlusImageProjection` or `ImageProjection` in the official code and in IP-Adapter files."""
    parts = name.split(".")
    if parts[0] == "layers":
        _, layer, *inner = parts
        inner_name = ".".join(inner[:-1])
        if inner_name in ("attn.to_k", "attn.to_v"):
            return Piece((f"layers.{layer}.0.to_kv.weight",), part=(inner_name == "attn.to_v", 2))
        table = (
            *(("ln0", "0.norm1"), ("ln1", "0.norm2"), ("attn.to_q", "0.to_q"), ("attn.to_out.0", "0.to_out")),
            *(("ff.0", "1.0"), ("ff.1.net.0.proj", "1.1"), ("ff.1.net.2", "1.3")),
        )
        return Piece((f"layers.{layer}." + replace_prefix(".".join(inner), table),))
    return Piece((replace_prefix(name, (("image_embeds", "proj"),)),))


def transformers_text_piece(name: str) -> Piece | None:
    """A name of open_clip's text encoder in transformers' `CLIPTextModel`; None for other names."""
    table = (
        ("token_embedding", "text_model.embeddings.token_embedding"),
        ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
        ("ln_final", "text_model.final_layer_norm"),
    )
    if name == "text_projection":
        return Piece(("text_projection.weight",), transposed=True)
    if name.startswith("transformer.resblocks."):
        return _transformers_block(name.removeprefix("transformer.resblocks."), "text_model.encoder.layers.")
    renamed = replace_prefix(name, table)
    return Piece((renamed,)) if renamed != name else None


def transformers_vision_piece(name: str) -> Piece | None:
    """A name of open_clip's image encoder in transformers' `CLIPVisionModel`; None for other names."""
    table = (
        ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
        ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
        ("visual.conv1", "vision_model.embeddings.patch_embedding"),
        ("visual.ln_pre", "vision_model.pre_layrnorm"),
        ("visual.ln_post", "vision_model.post_layernorm"),
    )
    if name == "visual.proj":
        return Piece(("visual_projection.weight",), transposed=True)
    if name.startswith("visual.transformer.resblocks."):
        return _transformers_block(
            name.removeprefix("visual.transformer.resblocks."), "vision_model.encoder.layers."
        )
    renamed = replace_prefix(name, table)
    return Piece((renamed,)) if renamed != name else None


def _transformers_block(name: str, prefix: str) -> Piece:
    number, inner = name.split(".", 1)
    if inner.startswith("attn.in_proj_"):
        kind = inner.removeprefix("attn.in_proj_")
        return Piece(tuple(f"{prefix}{number}.self_attn.{letter}_proj.{kind}" for letter in "qkv"))
    table = (
        *(("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"), ("attn.out_proj", "self_attn.out_proj")),
        *(("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2")),
    )
    return Piece((f"{prefix}{number}.{replace_prefix(inner, table)}",))
