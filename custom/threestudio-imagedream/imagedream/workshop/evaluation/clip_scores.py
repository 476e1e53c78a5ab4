"""CLIP similarity (paper §4.1, Table 1) by a named CLIP: the model's own encoder or any that can be loaded."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from imagedream import checkpoints
from imagedream.encoders import ImageTextEncoder
from imagedream.view_scores import clip_unavailable

OWN = "own"
"""Name of the CLIP that the measured model itself reads pictures and captions with."""


@dataclass(frozen=True)
class Clip:
    """A joint embedding of pictures and texts; the paper does not say which one it measures with."""

    name: str
    """What a table says beside its numbers."""
    encoder: ImageTextEncoder

    @torch.no_grad()
    def image_similarity(
        self, views: Float[Tensor, "view 3 height width"], picture: Float[Tensor, "3 _ _"]
    ) -> float:
        """CLIP(IM): 100 times the cosine between a picture and the views, mean over the views."""
        return 100 * float((self._embed(views) @ self._embed(picture[None]).T).mean())

    @torch.no_grad()
    def text_similarity(self, views: Float[Tensor, "view 3 height width"], caption: str) -> float:
        """CLIP(TX): 100 times the cosine between a caption and the views, mean over the views."""
        return 100 * float((self._embed(views) @ self.encoder.embed_text([caption]).T).mean())

    def _embed(self, pixels: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image embedding"]:
        return self.encoder.encode_image(pixels.to(self.encoder.device)).embedding


def check_clip(name: str) -> None:
    """Raise CheckpointError if `find_clip` cannot succeed with this name, before anything is loaded."""
    if name != OWN:
        checkpoints.check_part(name)


def find_clip(name: str, own: ImageTextEncoder | None, device: str | torch.device = "cpu") -> Clip:
    """The CLIP that a name means.

    Args:
        name: `own`; or as for `checkpoints.load_part`: an encoder's folder, a model, `ARCHITECTURE:WEIGHTS` of open_clip.
        own: what `own` means.
        device: where the others compute.

    Raises:
        ValueError: no such CLIP, or an encoder without image tower or joint embedding.
    """
    if name == OWN:
        if own is None:
            raise ValueError(f"no model is measured here whose {OWN} encoder could be meant; name a CLIP")
        encoder = own
    else:
        loaded, _ = checkpoints.load_part(name, "encoder")
        encoder = loaded.to(device)
    lacking = clip_unavailable(encoder)
    if lacking:
        raise ValueError(f"no CLIP scores by {name}: {lacking}")
    return Clip(name, encoder)
