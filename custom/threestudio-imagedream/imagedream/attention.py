"""Attention processors: what turns a stock UNet into one for groups of views with image prompts (paper §3.2 and §3.3).

With several prompts (MultiImageDream, arXiv 2404.17419) their tokens follow one another and their frames stand side by
side. `prompt_bias`, one number for each view and prompt, is added to the attention logits of that prompt's tokens and
frame, so its exponential is the weight of the prompt in that view's softmax: 0 everywhere is plain concatenation, and
a prompt whose bias is far below the others' is not seen.

The controllers' weights (see `imagedream.controller_weights`) come in as `image_weight`, which multiplies what the image
tokens add, and as part of `frame_bias`, the logarithm of the weight that prompt frames have in the views' self-attention.
"""

from diffusers.models.attention_processor import Attention, AttnProcessor2_0, IPAdapterAttnProcessor2_0
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear, pad, scaled_dot_product_attention

PromptBias = Float[Tensor, "group view prompt"]


class MultiViewAttnProcessor:
    """Self-attention over the tokens of all frames of a group: `(group frame) token width -> group (frame token) width`."""

    def __init__(self) -> None:
        self.attend = AttnProcessor2_0()

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        frames: int = 1,
        prompt_bias: PromptBias | None = None,
        frame_bias: PromptBias | None = None,
        image_weight: Float[Tensor, " group"] | None = None,
    ) -> Tensor:
        """Attend; `frames` rows of the batch belong to a group, the prompts' (if they have any) come last.

        `frame_bias` is added where views look at prompt frames; the other two play no part.
        """
        batch, token, width = hidden_states.shape
        joined = hidden_states.reshape(batch // frames, frames * token, width)
        if frame_bias is None or frame_bias.shape[1] == frames:
            output = self.attend(attn, joined, encoder_hidden_states, attention_mask)
        else:
            views, prompts = frame_bias.shape[1:]
            between_frames = pad(
                frame_bias, (views, 0, 0, prompts)
            )  # only views looking at prompts have a bias
            bias = between_frames.repeat_interleave(token, 1).repeat_interleave(token, 2)
            output = attn.to_out[0](_attend(attn, joined, attn.to_k(joined), attn.to_v(joined), bias))
        return output.reshape(batch, token, width)


class CaptionAttnProcessor(AttnProcessor2_0):
    """Cross-attention to the caption alone."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        frames: int = 1,
        prompt_bias: PromptBias | None = None,
        frame_bias: PromptBias | None = None,
        image_weight: Float[Tensor, " group"] | None = None,
    ) -> Tensor:
        """Attend; what concerns prompts plays no part."""
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask)


class ImagePromptAttnProcessor(IPAdapterAttnProcessor2_0):
    """Decoupled cross-attention (IP-Adapter) that also works without image tokens and with those of several prompts."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | tuple[Tensor, list[Tensor]] | None = None,
        attention_mask: Tensor | None = None,
        frames: int = 1,
        prompt_bias: PromptBias | None = None,
        frame_bias: PromptBias | None = None,
        image_weight: Float[Tensor, " group"] | None = None,
    ) -> Tensor:
        """Attend to the caption and, where the context is a pair, to the image tokens.

        The tokens of all prompts are one sequence, the prompts one after another; views may be biased towards some.
        """
        if not isinstance(encoder_hidden_states, tuple):
            return AttnProcessor2_0()(attn, hidden_states, encoder_hidden_states, attention_mask)
        if prompt_bias is None and image_weight is None:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask)
        caption, (tokens,) = encoder_hidden_states
        output = AttnProcessor2_0()(attn, hidden_states, caption, attention_mask)
        bias = None
        if prompt_bias is not None:
            views, prompts = prompt_bias.shape[1:]
            of_frames = pad(
                prompt_bias, (0, 0, 0, frames - views)
            )  # the prompts' own frames listen to all alike
            bias = of_frames.flatten(0, 1).repeat_interleave(tokens.shape[1] // prompts, 1)[:, None]
        image = _attend(attn, hidden_states, self.to_k_ip[0](tokens), self.to_v_ip[0](tokens), bias)
        image = linear(image, attn.to_out[0].weight)  # its bias is in `output` already
        if image_weight is not None:
            image = image_weight.to(image).repeat_interleave(frames)[:, None, None] * image
        return output + image


def _attend(
    attn: Attention,
    hidden_states: Float[Tensor, "batch query width"],
    key: Float[Tensor, "batch token inner"],
    value: Float[Tensor, "batch token inner"],
    bias: Float[Tensor, "batch #query token"] | None,
) -> Float[Tensor, "batch query inner"]:
    """Multi-head softmax(q kᵀ / √d + bias) v, before the output projection."""
    query, key, value = (
        tensor.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        for tensor in (attn.to_q(hidden_states), key, value)
    )
    mask = None if bias is None else bias[:, None].to(query.dtype)  # the same for all heads
    return scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
