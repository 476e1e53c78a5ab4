"""How good a model's four views are where nobody knows the truth: do they show what was asked for, and one object?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from imagedream.encoders import ImageTextEncoder
from imagedream.image_prompt.prompt import composite
from imagedream.mesh.visual_hull import hull_agreement
from imagedream.metrics import silhouette
from imagedream.pipeline import WHITE, ImageDreamOutput


@dataclass(frozen=True)
class ViewScores:
    """Scores of four views; larger is better."""

    clip: float | None
    """Agreement with the prompt by the model's own encoder; None where it has no joint embedding."""
    hull: float
    """Agreement of the silhouettes with their visual hull: mean over the views."""
    view_hull: tuple[float, ...]
    """The same for each view."""

    @property
    def total(self) -> float:
        """What seeds are ranked by: clip · hull, or hull alone."""
        return self.hull * (1.0 if self.clip is None else self.clip)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        hulls = list(self.view_hull)
        return {"score": self.total, "clip": self.clip, "hull": self.hull, "hull_of_each_view": hulls}


def clip_unavailable(encoder: ImageTextEncoder) -> str | None:
    """Why `score_views` will give no CLIP score; None if it will."""
    if not encoder.config.joint_embedding:
        return "this model's encoder has no joint embedding: its published form leaves the projections out"
    if not encoder.reads_images:
        return "this model's encoder has no CLIP image encoder"
    return None


@torch.no_grad()
def score_views(
    encoder: ImageTextEncoder,
    output: ImageDreamOutput,
    prompts: Sequence[Float[Tensor, "4 _ _"]],
    caption: str = "",
    background: tuple[float, float, float] = WHITE,
) -> ViewScores:
    """Score the views that a pipeline made.

    The CLIP score is the cosine between prompt picture and the view most like it, as a picture shows one side and the
    views of the others should differ from it; the mean over several pictures. Without pictures it is the cosine with
    the caption, mean over the views.

    Args:
        encoder: of the pipeline.
        output: what the pipeline returned.
        prompts: RGBA pictures it was given.
        caption: what it was told.
        background: colour behind the views.
    """
    images = output.images.cpu()
    shown = silhouette(images, background)
    view_hull = tuple(hull_agreement(shown, output.azimuths_deg, output.elevation_deg).tolist())
    clip = None
    if clip_unavailable(encoder) is None:
        views = encoder.encode_image(output.images).embedding
        if prompts:
            colour = torch.tensor(background)
            pictures = torch.cat(
                [
                    encoder.encode_image(composite(one, colour)[None].to(output.images.device)).embedding
                    for one in prompts
                ]
            )
            clip = float((pictures @ views.T).float().amax(dim=1).mean())
        else:
            clip = float((encoder.embed_text([caption]) @ views.T).float().mean())
    return ViewScores(clip, sum(view_hull) / len(view_hull), view_hull)
