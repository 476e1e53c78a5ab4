"""The paper's measures of views without a known truth (§4.1, Table 1): QIS, CLIP(TX), CLIP(IM).

torchmetrics has an inception score and a CLIP score of its own; both choose the network themselves, and its inception
score compares each picture with the mean over all pictures, where the paper's has no mean in it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate, log_softmax

from imagedream import checkpoints
from imagedream.checkpoints.tensors import open_tensors
from imagedream.encoders import ImageTextEncoder
from imagedream.metrics import clip_unavailable
from imagedream.pictures import over_white

METRICS = {
    "qis": "QIS",
    "psnr_db": "PSNR (dB)",
    "ssim": "SSIM",
    "iou": "silhouette IoU",
    "sharpness": "sharpness",
    "perceptual": "perceptual distance",
    "hull": "consistency",
    "clip_image": "CLIP(IM)",
    "clip_text": "CLIP(TX)",
}
"""What a score is called in tables; consistency is `imagedream.metrics.hull_agreement`."""


def titled(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores by what tables call them."""
    return {METRICS[metric]: value for metric, value in scores.items()}


OWN = "own"
"""Name of the CLIP that the measured model itself reads pictures and captions with."""

_INCEPTION_PX = 299


# -------------------------------------------------------------------------------------------------------- CLIP


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
        ValueError: no such CLIP, or one without image encoder or joint embedding.
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


# --------------------------------------------------------------------------------------------------------- QIS


def quality_only_inception_score(
    logits: Float[Tensor, "image label"],
) -> Float[Tensor, " image"]:
    """Exp Σᵢ pᵢ log(N pᵢ) of each picture: the inception score with a uniform marginal over the N labels.

    Between 1 (no idea) and N (certain). The paper prints the formula without exp, but its numbers exceed log 1000.

    >>> quality_only_inception_score(torch.tensor([[0.0, 0.0, 0.0, 0.0], [99.0, 0.0, 0.0, 0.0]]))
    tensor([1., 4.])
    """
    log_p = log_softmax(logits, dim=-1)
    return ((log_p.exp() * log_p).sum(-1) + math.log(logits.shape[-1])).exp()


class InceptionClassifier:
    """torchvision's Inception v3, the classifier of the inception score (Salimans et al. 2016).

    Args:
        weights: file with torchvision's `inception_v3_google` weights (1,000 labels); None downloads them.
        device: where it computes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else, or more than tensors.
    """

    def __init__(self, weights: Path | None, device: str | torch.device = "cpu") -> None:
        from torchvision.models import Inception_V3_Weights, inception_v3

        preset = Inception_V3_Weights.IMAGENET1K_V1
        if weights is None:
            state = preset.get_state_dict(progress=True, check_hash=True)
        elif weights.is_file():
            tensors = open_tensors(weights)
            state = tensors.read(tensors.shapes)
        else:
            raise FileNotFoundError(f"no file {weights} with the weights of Inception v3")
        self.model = inception_v3(weights=None, init_weights=False, transform_input=True)
        try:
            self.model.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"{weights} holds no weights of torchvision's Inception v3: {error}") from error
        self.model.eval().to(device)
        self.device, transform = torch.device(device), preset.transforms()
        self._mean, self._std = (
            torch.tensor(values, device=device)[:, None, None] for values in (transform.mean, transform.std)
        )

    @torch.no_grad()
    def __call__(self, pixels: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image label"]:
        """Logits of pictures in [0, 1]."""
        size = (_INCEPTION_PX, _INCEPTION_PX)
        resized = interpolate(pixels.to(self.device), size, mode="bilinear", antialias=True)
        return self.model((resized - self._mean) / self._std).cpu()


# ------------------------------------------------------------------------------------------------ the table's


def paper_scores(
    views: Float[Tensor, "view 3 height width"],
    picture: Float[Tensor, "4 _ _"],
    caption: str,
    clip: Clip | None,
    inception: InceptionClassifier | None,
) -> dict[str, float]:
    """The paper's measures of one object (§4.1), each a mean over its views.

    Args:
        views: on white.
        picture: the prompt, RGBA with straight alpha.
        caption: without one there is no CLIP(TX).
        clip: gives CLIP(TX) and CLIP(IM).
        inception: gives QIS.
    """
    scores = {}
    if inception is not None:
        scores["qis"] = float(quality_only_inception_score(inception(views)).mean())
    if clip is not None:
        if caption:
            scores["clip_text"] = clip.text_similarity(views, caption)
        scores["clip_image"] = clip.image_similarity(views, over_white(picture))
    return scores


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (of these values, not of a larger set)."""
    numbers = torch.tensor(values)
    return float(numbers.mean()), float(numbers.std(correction=0))
