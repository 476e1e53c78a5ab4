"""CLIP's text and image encoder: captions to tokens, pictures to features."""

from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

import open_clip
import torch
from annotated_types import Ge, Interval
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.hooks import apply_group_offloading
from diffusers.utils.accelerate_utils import apply_forward_hook
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from imagedream.runs.arguments import check_arguments
from imagedream.runs.ranges import check_value

MAX_CONTEXT_LENGTH = 1024
"""Of captions in tokens: the text encoder's mask has its square."""


class VisionConfig(TypedDict):
    """What is taken of open_clip's `CLIPVisionCfg`; some of its other keys make open_clip ask the network for code."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    head_width: NotRequired[int]


class TextConfig(TypedDict):
    """What is taken of open_clip's `CLIPTextCfg`, likewise."""

    context_length: int
    vocab_size: int
    width: int
    heads: int
    layers: int


class ImageFeatures(NamedTuple):
    """What the controllers read off a picture (paper §3.3)."""

    embedding: Float[Tensor, "batch embedding"] | None
    """L2-normalised joint embedding: the global controller's input; None without the projection to it."""
    hidden: Float[Tensor, "batch patch feature"]
    """Class and patch tokens after the second-to-last block, before any final norm: the local controller's input."""


@cache
def _tokenizer(context_length: int) -> open_clip.SimpleTokenizer:
    """CLIP's; to read its vocabulary takes longer than to make a small model."""
    return open_clip.SimpleTokenizer(context_length=context_length)


class ImageTextEncoder(ModelMixin, ConfigMixin):
    """An `open_clip.CLIP` of any size, saved like a diffusers model.

    Published models leave out what they do not use: text-only ones the image encoder, the diffusers conversions the last
    block of the text encoder and the projections to the joint embedding.

    Args:
        embed_dim: width of the joint embedding.
        vision_cfg: a `VisionConfig`; None for no image encoder.
        text_cfg: a `TextConfig`.
        caption_tokens: which block's output, after `ln_final`, the caption tokens are.
        joint_embedding: whether the projections to the joint embedding are there.
        image_mean: mean that pixel values in [0, 1] are normalised with.
        image_std: standard deviation, likewise.
        quick_gelu: OpenAI's approximation of GELU, which its own weights were trained with.

    Raises:
        ValueError: other keys, or numbers that make no encoder.
    """

    @register_to_config
    def __init__(
        self,
        embed_dim: int,
        vision_cfg: dict[str, Any] | None,
        text_cfg: dict[str, Any],
        caption_tokens: Literal["penultimate", "last"] = "penultimate",
        joint_embedding: bool = True,
        image_mean: Sequence[float] = open_clip.OPENAI_DATASET_MEAN,
        image_std: Sequence[float] = open_clip.OPENAI_DATASET_STD,
        quick_gelu: bool = False,
    ) -> None:
        super().__init__()
        smallest = dict(image_size=1, patch_size=1, width=1, layers=0, head_width=1)
        check_arguments(VisionConfig, smallest if vision_cfg is None else vision_cfg, "vision_cfg")
        check_arguments(TextConfig, text_cfg, "text_cfg")
        length = text_cfg["context_length"]
        lengths = Annotated[int, Interval(ge=1, le=MAX_CONTEXT_LENGTH)]
        check_value("text_cfg: context_length", length, lengths)
        check_value("image_mean", image_mean, Annotated[tuple[float, float, float], Ge(0)])
        check_value("image_std", image_std, Annotated[tuple[float, float, float], Ge(1e-6)])
        self.clip = open_clip.CLIP(embed_dim, dict(vision_cfg or smallest), dict(text_cfg), quick_gelu)
        if self.clip.attn_mask.is_meta:  # it is in no file
            self.clip.attn_mask = torch.full((length, length), float("-inf"), device="cpu").triu_(1)
        if not joint_embedding:
            del self.clip.logit_scale
            self.clip.text_projection = self.clip.visual.proj = None
        if vision_cfg is None:
            del self.clip.visual
        self.tokenizer = _tokenizer(length)

    def offload(self, device: str | torch.device) -> None:
        """From now on the blocks of both transformers wait on the CPU and come to `device` one by one, as a call needs them.

        The embeddings, norms and projections around the blocks (a tenth of ViT-H-14) stay on the device. This is what
        diffusers' `ModelMixin.enable_group_offload` applies, but to the transformers: it watches calls of `forward`, and
        of open_clip's modules only the blocks are called so.
        """
        device = torch.device(device)
        self.clip.to(device)
        encoders = [self.clip, self.clip.visual] if self.reads_images else [self.clip]
        for encoder in encoders:
            apply_group_offloading(
                encoder.transformer,
                onload_device=device,
                num_blocks_per_group=1,
                use_stream=device.type == "cuda",
            )

    @property
    def reads_images(self) -> bool:
        """Whether there is an image encoder."""
        return self.config.vision_cfg is not None

    @property
    def image_size(self) -> int:
        """Side of the square pictures that the image encoder reads, in pixels."""
        return self.config.vision_cfg["image_size"]

    def tokenize(self, captions: list[str]) -> Int[Tensor, "batch token"]:
        """Token ids, cut or padded to the context length."""
        return self.tokenizer(captions)

    def preprocess(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 size size"]:
        """Pixels in [0, 1] resized (antialiased bicubic) and normalised for the image encoder."""
        if pixels.shape[-2:] != (self.image_size, self.image_size):
            pixels = interpolate(pixels, (self.image_size,) * 2, mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (
            pixels.new_tensor(values)[:, None, None]
            for values in (self.config.image_mean, self.config.image_std)
        )
        return ((pixels - mean) / std).to(self.dtype)

    @apply_forward_hook
    def encode_image(self, pixels: Float[Tensor, "batch 3 height width"]) -> ImageFeatures:
        """Features of pictures with values in [0, 1].

        Raises:
            ValueError: if there is no image encoder.
        """
        if not self.reads_images:
            raise ValueError("there is no CLIP image encoder: this model reads captions only")
        output = self.clip.visual.forward_intermediates(
            self.preprocess(pixels), indices=2, output_fmt="NLC", output_extra_tokens=True
        )
        hidden = torch.cat([output["image_intermediates_prefix"][0], output["image_intermediates"][0]], dim=1)
        embedding = normalize(output["image_features"], dim=-1) if self.config.joint_embedding else None
        return ImageFeatures(embedding, hidden)

    @apply_forward_hook
    def encode_text(self, captions: list[str]) -> Float[Tensor, "batch token width"]:
        """Caption tokens: output of the second-to-last block, then `ln_final` (as in Stable Diffusion 2)."""
        output = self.clip.forward_intermediates(
            text=self.tokenize(captions).to(self.clip.positional_embedding.device),
            text_indices=2 if self.config.caption_tokens == "penultimate" else 1,
            normalize_intermediates=True,
            intermediates_only=True,
        )
        return output["text_intermediates"][0]

    @apply_forward_hook
    def embed_text(self, captions: list[str]) -> Float[Tensor, "batch embedding"]:
        """L2-normalised joint embeddings of captions.

        Raises:
            ValueError: if the projection to the joint embedding is not there.
        """
        if not self.config.joint_embedding:
            raise ValueError(
                "this encoder has no joint embedding: its published form leaves the projections out"
            )
        ids = self.tokenize(captions).to(self.clip.positional_embedding.device)
        return self.clip.encode_text(ids, normalize=True)
