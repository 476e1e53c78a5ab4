"""CLIP similarity (paper §4.1, Table 1) by a named CLIP: the model's own encoder, a saved one, or one of open_clip."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from imagedream import checkpoints
from imagedream.encoders import ImageTextEncoder

OWN = "own"
"""Name of the CLIP that the measured model itself reads pictures and captions with."""


@dataclass(frozen=True)
class Clip:
    """A joint embedding of pictures and texts; the paper does not say which one it measures with."""

    name: str
    """What a table says beside its numbers."""
    embed_images: Callable[[Float[Tensor, "image 3 height width"]], Float[Tensor, "image embedding"]]
    """Pictures in [0, 1] -> unit vectors."""
    embed_texts: Callable[[list[str]], Float[Tensor, "text embedding"]]
    """Captions -> unit vectors."""

    @torch.no_grad()
    def image_similarity(
        self, views: Float[Tensor, "view 3 height width"], picture: Float[Tensor, "3 _ _"]
    ) -> float:
        """CLIP(IM): 100 times the cosine between a picture and the views, mean over the views."""
        return 100 * float((self.embed_images(views) @ self.embed_images(picture[None]).T).mean())

    @torch.no_grad()
    def text_similarity(self, views: Float[Tensor, "view 3 height width"], caption: str) -> float:
        """CLIP(TX): 100 times the cosine between a caption and the views, mean over the views."""
        return 100 * float((self.embed_images(views) @ self.embed_texts([caption]).T).mean())


def check_clip(name: str) -> None:
    """Raise ValueError if no CLIP has this name, before anything is loaded; see `find_clip`."""
    if name == OWN or (Path(name) / "config.json").is_file():
        return
    architecture, separator, weights = name.partition(":")
    if not separator or not weights:
        raise ValueError(
            f"no CLIP {name!r}: give {OWN}, the folder of a model's encoder, or ARCHITECTURE:WEIGHTS of open_clip, "
            "such as ViT-H-14:laion2b_s32b_b79k or ViT-H-14:open_clip_model.safetensors"
        )
    if architecture not in open_clip.list_models():
        raise ValueError(
            f"open_clip knows no architecture {architecture!r}; it knows {', '.join(open_clip.list_models())}"
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if weights not in tags and not Path(weights).is_file():
        raise ValueError(
            f"{weights} is no file, and none of open_clip's weights of {architecture}: {', '.join(tags) or 'none'}"
        )


def find_clip(name: str, own: ImageTextEncoder, device: str | torch.device = "cpu") -> Clip:
    """The CLIP that a name means.

    Args:
        name: `own`; the folder of a saved `ImageTextEncoder`; or `ARCHITECTURE:WEIGHTS` of open_clip, the weights one of
            its tags (downloaded) or a file (safetensors, or tensors alone).
        own: what `own` means.
        device: where the others compute.

    Raises:
        ValueError: no such CLIP, or an encoder without image tower or joint embedding.
    """
    check_clip(name)
    if name == OWN:
        return _of_encoder(own, OWN)
    if (Path(name) / "config.json").is_file():
        encoder = checkpoints.load_component(ImageTextEncoder, Path(name), torch.float32)
        return _of_encoder(encoder.to(device), name)
    architecture, _, weights = name.partition(":")
    model = open_clip.create_model(architecture, pretrained=weights, device=device, weights_only=True).eval()
    tokenizer = open_clip.get_tokenizer(architecture)
    size = open_clip.get_model_config(architecture)["vision_cfg"]["image_size"]
    mean, std = (
        torch.tensor(v, device=device)[:, None, None]
        for v in (model.visual.image_mean, model.visual.image_std)
    )

    def embed_images(pixels: Tensor) -> Tensor:
        resized = interpolate(pixels.to(device), (size, size), mode="bicubic", antialias=True).clamp(0, 1)
        return normalize(model.encode_image((resized - mean) / std), dim=-1).cpu()

    def embed_texts(captions: list[str]) -> Tensor:
        return normalize(model.encode_text(tokenizer(captions).to(device)), dim=-1).cpu()

    return Clip(name, embed_images, embed_texts)


def _of_encoder(encoder: ImageTextEncoder, name: str) -> Clip:
    if not encoder.reads_images or not encoder.config.joint_embedding:
        lacks = "joint embedding" if encoder.reads_images else "image tower"
        raise ValueError(f"the encoder {name!r} has no {lacks}, so it gives no CLIP scores; name another one")
    return Clip(
        name,
        lambda pixels: encoder.encode_image(pixels.to(encoder.device)).embedding.float().cpu(),
        lambda captions: encoder.embed_text(captions).float().cpu(),
    )
