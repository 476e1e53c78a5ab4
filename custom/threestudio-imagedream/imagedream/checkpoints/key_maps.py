"""What the parts of a model are called in published files.

Functions take a name of ours and give the `Piece` of the file that holds it; tables pair prefixes, ours first. Checked
against diffusers' own converters, which go one way only, and against the official code (tests/parity).
"""

import re
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
_UNET = (
    *(("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2")),
    *(("class_embedding.linear_1", "camera_embed.0"), ("class_embedding.linear_2", "camera_embed.2")),
    *(("conv_in", "input_blocks.0.0"), ("conv_norm_out", "out.0"), ("conv_out", "out.2")),
    ("mid_block.attentions.0", "middle_block.1"),
)
_VAE_ATTENTION = (
    ("group_norm", "norm"),
    ("to_q", "q"),
    ("to_k", "k"),
    ("to_v", "v"),
    ("to_out.0", "proj_out"),
)


def ldm_unet_name(name: str, layers: int, attention_down: Sequence[bool]) -> str:
    """A name of `UNet2DConditionModel` in the latent-diffusion code, which numbers all layers through.

    Args:
        name: ours.
        layers: residual blocks a level.
        attention_down: for each level from the finest, whether it has attention.
    """
    if match := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", name):
        side, level, kind, layer, inner = match.groups()
        number = int(level) * (layers + 1) + int(layer)
        block = f"input_blocks.{number + 1}" if side == "down" else f"output_blocks.{number}"
        return f"{block}.1.{inner}" if kind == "attentions" else f"{block}.0.{replace_prefix(inner, _RESNET)}"
    if match := re.fullmatch(r"mid_block\.resnets\.([01])\.(.+)", name):
        return f"middle_block.{2 * int(match[1])}.{replace_prefix(match[2], _RESNET)}"
    if match := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.+)", name):
        return f"input_blocks.{(int(match[1]) + 1) * (layers + 1)}.0.op.{match[2]}"
    if match := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.+)", name):
        level = int(match[1])
        place = 2 if attention_down[-1 - level] else 1  # after the attention, if any
        return f"output_blocks.{level * (layers + 1) + layers}.{place}.conv.{match[2]}"
    return replace_prefix(name, _UNET)


def ldm_vae_piece(name: str, levels: int) -> Piece:
    """A name of `AutoencoderKL` in the latent-diffusion code.

    Its decoder counts levels from the finest, and its attention is made of 1×1 convolutions.
    """
    renamed = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    if match := re.fullmatch(r"(\w+)\.(down|up)_blocks\.(\d+)\.(.+)", renamed):
        half, side, level, inner = match.groups()
        inner = re.sub(r"^resnets\.(\d+)", r"block.\1", inner).replace("samplers.0.", "sample.")
        number = int(level) if side == "down" else levels - 1 - int(level)
        return Piece((f"{half}.{side}.{number}.{inner}",))
    if match := re.fullmatch(r"(\w+)\.mid_block\.attentions\.0\.(.+)", renamed):
        inner = replace_prefix(match[2], _VAE_ATTENTION)
        return Piece((f"{match[1]}.mid.attn_1.{inner}",), pointwise=".to_" in name)
    if match := re.fullmatch(r"(\w+)\.mid_block\.resnets\.([01])\.(.+)", renamed):
        return Piece((f"{match[1]}.mid.block_{int(match[2]) + 1}.{match[3]}",))
    return Piece((renamed,))


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


_TRANSFORMERS = (
    ("token_embedding", "text_model.embeddings.token_embedding"),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("ln_final", "text_model.final_layer_norm"),
    ("text_projection", "text_projection.weight"),
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("visual.conv1", "vision_model.embeddings.patch_embedding"),
    ("visual.ln_pre", "vision_model.pre_layrnorm"),
    ("visual.ln_post", "vision_model.post_layernorm"),
    ("visual.proj", "visual_projection.weight"),
)


def transformers_piece(name: str) -> Piece | None:
    """A name of open_clip's encoders in transformers' `CLIPTextModel` and `CLIPVisionModel`; None for other names."""
    if name.startswith("transformer.resblocks."):
        return _transformers_block(name.removeprefix("transformer.resblocks."), "text_model.encoder.layers.")
    if name.startswith("visual.transformer.resblocks."):
        block = name.removeprefix("visual.transformer.resblocks.")
        return _transformers_block(block, "vision_model.encoder.layers.")
    renamed = replace_prefix(name, _TRANSFORMERS)
    projection = name in ("text_projection", "visual.proj")
    return Piece((renamed,), transposed=projection) if renamed != name else None


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
