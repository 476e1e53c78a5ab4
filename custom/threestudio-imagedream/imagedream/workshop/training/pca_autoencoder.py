"""Principal components laid into the weights of a stock autoencoder's encoder.

On two cores an autoencoder of this kind needs tens of thousands of steps before its latents are any good. The best
*linear* code of a patch is known in closed form, and a stock `AutoencoderKL` encoder can hold it exactly: residual
branches are zero, each strided convolution reads the four pixels of a 2×2 patch, and the final norm and SiLU cancel
(see `_linear_head`). Latents are available at once, gradients through the encoder are those of a matrix, and only
the decoder is left to learn.
"""

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle

_CARRIER = 64.0
"""Magnitude of the constant channels that make the final group norm a fixed scale."""
_LOG_VARIANCE = -20.0
"""Of the posterior: practically none."""


@torch.no_grad()
def lay_principal_components(vae: AutoencoderKL, pixels: Float[Tensor, "batch 3 height width"]) -> None:
    """Make the encoder of `vae` the projection on the leading principal components of its patches, in place.

    Each component is divided by the square root of its standard deviation: halfway between plain components, where
    diffusion would drown the fine ones in noise, and whitened ones, where it would find them as important as colour.

    Args:
        vae: one layer a block and `norm_num_groups` 1, so that a single scale is left to cancel.
        pixels: pictures to take the components from, in [−1, 1].

    Raises:
        ValueError: if the autoencoder is not of that shape.
    """
    config, encoder = vae.config, vae.encoder
    channels = config.block_out_channels
    if config.layers_per_block != 1 or config.norm_num_groups != 1:
        raise ValueError(
            f"principal components need layers_per_block 1 and norm_num_groups 1, "
            f"got {config.layers_per_block} and {config.norm_num_groups}"
        )
    if 2 * config.latent_channels >= channels[-1]:
        raise ValueError(
            f"{config.latent_channels} latent channels need more than {2 * config.latent_channels} "
            f"channels in the last block, got {channels[-1]}"
        )
    for block in (*encoder.down_blocks, encoder.mid_block):
        for resnet in block.resnets:
            _zero(resnet.conv2)
    for attention in encoder.mid_block.attentions:
        if attention is not None:
            _zero(attention.to_out[0])

    features = pixels
    _set_taps(encoder.conv_in, torch.eye(3)[:, :, None, None], tap=1)
    for level, block in enumerate(encoder.down_blocks[:-1]):
        if level > 0:
            _embed(block.resnets[0].conv_shortcut, features.shape[1])
        patches = pixel_unshuffle(features, 2)  # (batch, channel · 2 · 2, …): channel-major, then row, column
        basis = _leading_directions(patches, min(channels[level], patches.shape[1]))
        kernel = basis.unflatten(1, (features.shape[1], 2, 2))
        _set_taps(block.downsamplers[0].conv, kernel, tap=0)
        features = torch.einsum("kc,bchw->bkhw", basis, patches)
    _linear_head(vae, features)


def _linear_head(vae: AutoencoderKL, features: Float[Tensor, "batch c h w"]) -> None:
    """Components of the last features through norm and SiLU: channels come as ±x, since silu(x) − silu(−x) = x.

    All other channels carry ±constants so large that the norm divides every picture by the same number.
    """
    encoder, latents = vae.encoder, vae.config.latent_channels
    flat = features.transpose(0, 1).flatten(1)  # (channel, sample)
    mean = flat.mean(1)
    values, vectors = torch.linalg.eigh((flat - mean[:, None]).double().cov())
    deviation = values.flip(0)[:latents].clamp_min(1e-8).sqrt().float()
    projection = (vectors.flip(1)[:, :latents].T.float()) / deviation.sqrt()[:, None]
    shortcut, width = encoder.down_blocks[-1].resnets[0].conv_shortcut, encoder.conv_norm_out.num_channels
    _zero(shortcut)
    for sign, start in ((1, 0), (-1, latents)):
        shortcut.weight[start : start + latents, : len(mean), 0, 0] = sign * projection
        shortcut.bias[start : start + latents] = -sign * projection @ mean
    carriers = width - 2 * latents
    shortcut.bias[2 * latents :] = _CARRIER * (1 - 2.0 * (torch.arange(carriers) % 2))

    power = (carriers * _CARRIER**2 + 2 * float(deviation.sum())) / width
    nn.init.constant_(encoder.conv_norm_out.weight, power**0.5)
    nn.init.zeros_(encoder.conv_norm_out.bias)
    identity = torch.cat([torch.eye(latents), -torch.eye(latents)], dim=1)[:, :, None, None]
    _set_taps(encoder.conv_out, identity, tap=1)
    encoder.conv_out.bias[latents:] = _LOG_VARIANCE
    _embed(vae.quant_conv, 2 * latents)


def _leading_directions(features: Float[Tensor, "batch c h w"], count: int) -> Float[Tensor, "count c"]:
    """Orthonormal directions that hold most of the features' energy (about zero, so that the mean passes too)."""
    flat = features.transpose(0, 1).flatten(1).double()
    _, vectors = torch.linalg.eigh(flat @ flat.T / flat.shape[1])
    return vectors.flip(1)[:, :count].T.float()


def _zero(layer: nn.Module) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def _embed(layer: nn.Conv2d, count: int) -> None:
    """A 1×1 convolution that passes `count` channels on."""
    _zero(layer)
    layer.weight[:count, :count, 0, 0] = torch.eye(count)


def _set_taps(layer: nn.Conv2d, kernel: Float[Tensor, "out into rows columns"], tap: int) -> None:
    """A 3×3 convolution that is zero but for `kernel`, whose first element goes to row and column `tap`."""
    _zero(layer)
    out, into, rows, columns = kernel.shape
    layer.weight[:out, :into, tap : tap + rows, tap : tap + columns] = kernel
