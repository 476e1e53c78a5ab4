"""The OpenCLIP towers: captions to tokens, pictures to features."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import open_clip
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import interpolate, normalize


class ImageFeatures(NamedTuple):
    """What the controllers read off a picture (paper §3.3)."""

    embedding: Float[Tensor, "batch embedding"] | None
    """L2-normalised joint embedding: the global controller's input; None without the projection to it."""
    hidden: Float[Tensor, "batch patch feature"]
    """Class and patch tokens after the second-to-last block, before any final norm: the local controller's input."""


class ImageTextEncoder(ModelMixin, ConfigMixin):
    """An `open_clip.CLIP` of any size, saved like a diffusers model.

    Published models leave out what they do not use: text-only ones the image tower, the diffusers conversions the last
    block of the text tower and the projections to the joint embedding.

    Args:
        embed_dim: width of the joint embedding.
        vision_cfg: open_clip's `CLIPVisionCfg` as a dict; None for no image tower.
        text_cfg: open_clip's `CLIPTextCfg` as a dict.
        caption_tokens: which block's output, after `ln_final`, the caption tokens are.
        joint_embedding: whether the projections to the joint embedding are there.
        image_mean: mean that pixel values in [0, 1] are normalised with.
        image_std: standard deviation, likewise.
        quick_gelu: OpenAI's approximation of GELU, which its own weights were trained with.
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
        smallest_tower = dict(image_size=1, patch_size=1, width=1, layers=0, head_width=1)
        self.clip = open_clip.CLIP(embed_dim, dict(vision_cfg or smallest_tower), dict(text_cfg), quick_gelu)
        if not joint_embedding:
            del self.clip.logit_scale
            self.clip.text_projection = self.clip.visual.proj = None
        if vision_cfg is None:
            del self.clip.visual
        self.tokenizer = open_clip.SimpleTokenizer(context_length=text_cfg["context_length"])
        self._visits: dict[bool, _Visit] = {}

    def offload(self, device: str | torch.device) -> None:
        """From now on keep the weights on the CPU; a call copies them to `device` block by block, as it needs them."""
        torch.nn.Module.to(self, "cpu")
        if torch.device(device).type == "cuda":
            for weight in (*self.parameters(), *self.buffers()):
                weight.data = weight.data.pin_memory()  # copied several times faster
        in_blocks = set()
        for tower in [self.clip, *([self.clip.visual] if self.reads_images else [])]:
            for block in tower.transformer.resblocks:
                visit = _Visit([*block.parameters(), *block.buffers()], device)
                block.register_forward_pre_hook(visit.arrive)
                block.register_forward_hook(visit.leave, always_call=True)
                in_blocks.update(map(id, visit.weights))
        named = [*self.named_parameters(), *self.named_buffers()]
        outside = [(name, weight) for name, weight in named if id(weight) not in in_blocks]
        for image in (True, False):
            weights = [weight for name, weight in outside if name.startswith("clip.visual.") == image]
            self._visits[image] = _Visit(weights, device)

    def free(self) -> None:
        """Give the memory of the weights back for good."""
        self.clip = None

    @contextmanager
    def _at_work(self, *, image: bool) -> Iterator[None]:
        """Inside, what the image tower or the text tower has outside its blocks is on the working device."""
        if self.clip is None:
            raise ValueError(
                "the encoder was freed after its first prompt (encoder: free); use encoder: offload to encode more"
            )
        visit = self._visits.get(image)
        if visit is None:
            yield
            return
        visit.arrive()
        try:
            yield
        finally:
            visit.leave()

    @property
    def reads_images(self) -> bool:
        """Whether there is an image tower."""
        return self.config.vision_cfg is not None

    @property
    def image_size(self) -> int:
        """Side of the square pictures that the image tower reads, in pixels."""
        return self.config.vision_cfg["image_size"]

    def tokenize(self, captions: list[str]) -> Int[Tensor, "batch token"]:
        """Token ids, cut or padded to the context length."""
        return self.tokenizer(captions)

    def preprocess(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 size size"]:
        """Pixels in [0, 1] resized (antialiased bicubic) and normalised for the image tower."""
        if pixels.shape[-2:] != (self.image_size, self.image_size):
            pixels = interpolate(pixels, (self.image_size,) * 2, mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (
            pixels.new_tensor(values)[:, None, None]
            for values in (self.config.image_mean, self.config.image_std)
        )
        return ((pixels - mean) / std).to(self.dtype)

    def encode_image(self, pixels: Float[Tensor, "batch 3 height width"]) -> ImageFeatures:
        """Features of pictures with values in [0, 1].

        Raises:
            ValueError: if there is no image tower.
        """
        if not self.reads_images:
            raise ValueError(
                "this encoder has no image tower: it comes from a model that reads captions only"
            )
        with self._at_work(image=True):
            output = self.clip.visual.forward_intermediates(
                self.preprocess(pixels), indices=2, output_fmt="NLC", output_extra_tokens=True
            )
        hidden = torch.cat([output["image_intermediates_prefix"][0], output["image_intermediates"][0]], dim=1)
        embedding = normalize(output["image_features"], dim=-1) if self.config.joint_embedding else None
        return ImageFeatures(embedding, hidden)

    def encode_text(self, captions: list[str]) -> Float[Tensor, "batch token width"]:
        """Caption tokens: output of the second-to-last block, then `ln_final` (as in Stable Diffusion 2)."""
        with self._at_work(image=False):
            output = self.clip.forward_intermediates(
                text=self.tokenize(captions).to(self.clip.positional_embedding.device),
                text_indices=2 if self.config.caption_tokens == "penultimate" else 1,
                normalize_intermediates=True,
                intermediates_only=True,
            )
        return output["text_intermediates"][0]

    def embed_text(self, captions: list[str]) -> Float[Tensor, "batch embedding"]:
        """L2-normalised joint embeddings of captions.

        Raises:
            ValueError: if the projection to the joint embedding is not there.
        """
        if not self.config.joint_embedding:
            raise ValueError(
                "this encoder has no joint embedding: its published form leaves the projections out"
            )
        with self._at_work(image=False):
            ids = self.tokenize(captions).to(self.clip.positional_embedding.device)
            return self.clip.encode_text(ids, normalize=True)


class _Visit:
    """Weights that wait on the CPU and are on a device between `arrive` and `leave`, both usable as forward hooks."""

    def __init__(self, weights: Sequence[Tensor], device: str | torch.device) -> None:
        self.weights = weights
        self.device = torch.device(device)

    def arrive(self, *_: Any) -> None:
        self.waiting = [weight.data for weight in self.weights]
        for weight in self.weights:
            weight.data = weight.data.to(self.device, non_blocking=True)

    def leave(self, *_: Any) -> None:
        for weight, waiting in zip(self.weights, self.waiting, strict=True):
            weight.data = waiting
