"""Quality-only inception score (paper §4.1): how sure a classifier is of each picture, whatever the variety."""

import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate, log_softmax

_SIZE_PX = 299


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
        weights: file with torchvision's `inception_v3_google` weights (1,000 labels), safetensors or tensors alone; None
            downloads them.
        device: where it computes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else.
    """

    def __init__(self, weights: Path | None, device: str | torch.device = "cpu") -> None:
        from torchvision.models import Inception_V3_Weights, inception_v3

        if weights is not None and not weights.is_file():
            raise FileNotFoundError(f"no file {weights} with the weights of Inception v3")
        preset = Inception_V3_Weights.IMAGENET1K_V1
        if weights is None:
            state = preset.get_state_dict(progress=True, check_hash=True)
        elif weights.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(weights)
        else:
            state = torch.load(weights, weights_only=True, map_location="cpu")
        self.model = inception_v3(weights=None, init_weights=False, transform_input=True)
        try:
            self.model.load_state_dict(state)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise ValueError(f"{weights} holds no weights of torchvision's Inception v3: {error}") from error
        self.model.eval().to(device)
        self.device, transform = torch.device(device), preset.transforms()
        self._mean, self._std = (
            torch.tensor(values, device=device)[:, None, None] for values in (transform.mean, transform.std)
        )

    @torch.no_grad()
    def __call__(self, pixels: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image label"]:
        """Logits of pictures in [0, 1]."""
        resized = interpolate(pixels.to(self.device), (_SIZE_PX, _SIZE_PX), mode="bilinear", antialias=True)
        return self.model((resized - self._mean) / self._std).cpu()
