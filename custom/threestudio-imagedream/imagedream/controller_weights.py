"""The weights of the controllers: image tokens, prompt frame and caption (the balance the paper asks for, §4.2, Fig. 8)."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from imagedream.runs.ranges import NotNegative, check_ranges


@dataclass(frozen=True)
class ControllerWeights:
    """Weights of a call of the network; 1 is the model as it was trained, 0 the model without that controller."""

    ip_weight: NotNegative = 1.0
    """Of the image tokens (global and local controller): what their cross-attention adds is multiplied by it. 0 is a
    network that is given no image features."""
    pixel_weight: NotNegative = 1.0
    """Of the prompt's frame in the self-attention of the views (pixel controller): the share of attention that its tokens
    get against the views' own is multiplied by it. 0 is a network that is given no prompt latents."""
    caption_weight: NotNegative = 1.0
    """Of the caption: its tokens are those of the empty caption plus this times the difference. 0 is the empty caption."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def check(self, unet: Any) -> None:
        """Raise ValueError for a weight other than 1 of a controller that a `MultiViewUNet` has not."""
        for name, there in (("ip_weight", unet.uses_image_tokens), ("pixel_weight", unet.uses_prompt_frame)):
            if getattr(self, name) != 1 and not there:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but this model's controllers are {unet.config.controllers!r}: "
                    "there is nothing to weight"
                )

    def apply(
        self,
        condition: Any,
        unconditional: Any,
        empty_tokens: Float[Tensor, "1 token text_width"] | None = None,
    ) -> tuple[Any, Any]:
        """A pair of conditions for classifier-free guidance with these weights; all at 1 leave it as it is.

        The image controllers are weighted in both, as "no image" goes through them too; the caption in the first alone.

        Args:
            condition: an `imagedream.model.Condition` with the caption.
            unconditional: the one for "no condition".
            empty_tokens: of the empty caption; needed where the caption's weight is not 1.
        """
        if self.caption_weight != 1:
            tokens = condition.text_tokens
            empty = empty_tokens.to(tokens)
            condition = replace(condition, text_tokens=empty + self.caption_weight * (tokens - empty))

        def weighted(one: Any) -> Any:
            rows = len(one.text_tokens)

            def column(weight: float, tensor: Tensor | None) -> Tensor | None:
                if weight == 1 or tensor is None:
                    return None
                return torch.full((rows,), weight, dtype=torch.float32, device=one.text_tokens.device)

            return replace(
                one,
                image_weight=column(self.ip_weight, one.image_features),
                frame_weight=column(self.pixel_weight, one.prompt_latents),
            )

        return weighted(condition), weighted(unconditional)


AS_TRAINED = ControllerWeights()
"""All weights 1."""
