"""Training of CLIP: an encoder of pictures and one of captions."""

import math
from typing import Any

import open_clip
import torch
from torch import Tensor

from imagedream.encoders import ImageTextEncoder
from imagedream.pictures import composite
from imagedream.workshop.training.random_draws import random_backgrounds
from imagedream.workshop.training.train_config import OptimizerConfig
from imagedream.workshop.training.training_module import Training


class EncoderTraining(Training):
    """Contrastive training on pictures and captions (Radford et al., arXiv 2103.00020).

    Args:
        config: arguments of `ImageTextEncoder`.
        optimizer: see `OptimizerConfig`.
        steps: length of the training.
        seed: of all draws.
    """

    def __init__(self, config: dict[str, Any], optimizer: OptimizerConfig, steps: int, seed: int) -> None:
        super().__init__(optimizer, steps, seed)
        self.model = ImageTextEncoder(**config)
        self.contrast = open_clip.ClipLoss()

    def loss(self, batch: dict, generator: torch.Generator) -> dict[str, Tensor]:
        """Each prompt must find its caption and each caption its prompt."""
        pixels = composite(batch["prompts"], random_backgrounds(len(batch["prompts"]), generator))
        images = self.model.encode_image(pixels.to(self.device)).embedding
        texts = self.model.embed_text(batch["captions"])
        scale = self.model.clip.logit_scale.clamp(max=math.log(100)).exp()
        accuracy = (
            ((images @ texts.T).argmax(1) == torch.arange(len(texts), device=texts.device)).float().mean()
        )
        return {"loss": self.contrast(images, texts, scale), "accuracy": accuracy.detach()}
