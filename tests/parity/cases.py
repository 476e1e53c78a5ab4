"""What both sides of the parity tests share: sizes, seeded weights and seeded inputs.

Imported by our tests and, in another process, by `official.py`; so it knows neither of the two packages that are
called `imagedream`. Every value follows from a name alone, by a random stream that numpy keeps frozen.
"""

import math
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

CAPTION = "a wooden toy robot, 3d asset"
NEGATIVE_CAPTION = "ugly, blurry, dull"
GUIDANCE_SCALE = 5.0
RECON_STD_RESCALE = 0.2
ELEVATION_DEG = 5.0
TIMESTEPS = (261, 867)  # of the two groups the network is called with
DISTILLATION_TIMESTEP = 500  # one for all groups, as the official guidance has it
VIEWS, GROUPS, TEXT_LENGTH = 4, 2, 77
IMAGE_TOKENS = {"local": 16, "global": 4}

BACKGROUND = tuple(level / 255 for level in (230.4, 102.2, 51.5))
GREY_LEVEL = 128
"""The background's mean in 8 bits. It lies a little above: the official code cuts where ours rounds."""


@dataclass(frozen=True)
class Size:
    """A size of the whole model in the official configuration's terms."""

    model_channels: int
    channel_mult: tuple[int, ...]
    attention_resolutions: tuple[int, ...]
    vae_channels: int
    vae_mult: tuple[int, ...]
    embed_dim: int
    vision: dict
    text: dict
    image_size: int
    """Side of a view in pixels; the published models' is 256."""
    uniform_prompt: bool
    """Whether the prompt has one colour, so that resizing it for CLIP is exact in every library."""
    sampling_steps: int

    @property
    def latent_size(self) -> int:
        return self.image_size // 2 ** (len(self.vae_mult) - 1)

    @property
    def patches(self) -> int:
        """Tokens of the image encoder, class token included."""
        return (self.vision["image_size"] // self.vision["patch_size"]) ** 2 + 1


SIZES = {
    "reduced": Size(
        model_channels=64,
        channel_mult=(1, 2),
        attention_resolutions=(1,),
        vae_channels=32,
        vae_mult=(1, 2),
        embed_dim=64,
        vision=dict(image_size=32, patch_size=8, width=128, layers=3, head_width=64),
        text=dict(context_length=TEXT_LENGTH, vocab_size=49408, width=128, heads=2, layers=4),
        image_size=32,
        uniform_prompt=False,
        sampling_steps=4,
    ),
    "full": Size(
        model_channels=320,
        channel_mult=(1, 2, 4, 4),
        attention_resolutions=(4, 2, 1),
        vae_channels=128,
        vae_mult=(1, 2, 4, 4),
        embed_dim=1024,
        vision=dict(image_size=224, patch_size=14, width=1280, layers=32, head_width=80),
        text=dict(context_length=TEXT_LENGTH, vocab_size=49408, width=1024, heads=16, layers=24),
        image_size=128,
        uniform_prompt=True,
        sampling_steps=2,
    ),
}


def seeded(name: str, *shape: int, low: float = -math.sqrt(3), high: float = math.sqrt(3)) -> torch.Tensor:
    """Uniform numbers that follow from the name; mean 0 and variance 1 unless told otherwise."""
    # the legacy generator is the one whose stream numpy promises never to change
    stream = np.random.RandomState(zlib.crc32(name.encode()))
    return torch.from_numpy(np.asarray(stream.uniform(low, high, shape), dtype=np.float32))


def seeded_weight(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A parameter of the official model: layers keep the size of what goes through them, nothing is zero."""
    values = seeded(key, *shape)
    if len(shape) >= 2:
        return values / math.sqrt(math.prod(shape[1:]))
    return 1 + 0.1 * values if key.endswith(".weight") else 0.1 * values


def prompt_picture(size: Size) -> Image.Image:
    """The RGBA prompt, as large as a view; opaque or transparent, nothing between."""
    shape = (size.image_size, size.image_size, 1)
    if size.uniform_prompt:
        rgba = np.broadcast_to(np.uint8([200, 60, 20, 255]), (*shape[:2], 4))
    else:
        rgb = seeded("prompt", *shape[:2], 3, low=0, high=256).numpy()
        alpha = 255 * (seeded("alpha", *shape).numpy() > -0.5)
        rgba = np.concatenate([rgb, alpha], axis=-1)
    return Image.fromarray(rgba.astype(np.uint8))


def resized_picture(size: Size) -> Image.Image:
    """An RGB picture 8/7 as wide as the image encoder's input, as 256 is to 224: what CLIP's resizing is tested on."""
    side = size.vision["image_size"] * 8 // 7
    blocks = seeded("resized", 6, 6, 3, low=0, high=256).numpy().astype(np.uint8)
    return Image.fromarray(blocks).resize((side, side), Image.Resampling.BILINEAR)


def network_inputs(size: Size, adapter: str) -> dict[str, torch.Tensor]:
    """Inputs of a single call of the network, grouped as ours takes them."""
    features = (
        seeded("embedding", GROUPS, size.embed_dim) / math.sqrt(size.embed_dim)
        if adapter == "global"
        else seeded("hidden", GROUPS, size.patches, size.vision["width"])
    )
    return {
        "latents": seeded("latents", GROUPS, VIEWS, 4, 8, 8),
        "timesteps": torch.tensor(TIMESTEPS),
        "cameras": seeded("cameras", GROUPS, VIEWS, 16),
        "text_tokens": seeded("text", GROUPS, TEXT_LENGTH, size.text["width"]),
        "image_features": features,
        "prompt_latents": seeded("prompt latents", GROUPS, 1, 4, 8, 8),
    }


def sampling_noise(size: Size) -> torch.Tensor:
    """What sampling starts from, for one group."""
    return seeded("sampling noise", 1, VIEWS, 4, size.latent_size, size.latent_size)


def distillation_inputs(size: Size, from_renders: bool) -> dict[str, torch.Tensor]:
    """Renders with channels last, half as large as a view, or latents; cameras 1.5 away and noise."""
    batch, side = GROUPS * VIEWS, size.latent_size
    c2w = seeded("camera to world", batch, 4, 4)
    c2w[:, :3, 3] *= 1.5
    if from_renders:
        half = size.image_size // 2
        values = seeded("renders", batch, half, half, 3, low=0, high=1)
    else:
        side = 8
        values = seeded("render latents", batch, 4, side, side)
    return {"values": values, "c2w": c2w, "noise": seeded("noise", batch, 4, side, side)}
