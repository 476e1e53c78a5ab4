"""The multi-view diffusion network of ImageDream, put together from stock diffusers parts (paper §3.2 and §3.3).

`MultiViewUNet` wires a `UNet2DConditionModel` with three things: self-attention that runs over all frames of a group
at once, decoupled cross-attention to image tokens in every cross-attention layer (the global or the local
controller), and camera vectors in place of class labels. `predict_noise` is the only way in: it adds the clean
prompt frame of the pixel controller and drops its output again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal, get_args

import torch
from annotated_types import Interval
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import ImageProjection, IPAdapterPlusImageProjection
from jaxtyping import Float, Int
from torch import Tensor, nn

from imagedream.attention import CaptionAttnProcessor, ImagePromptAttnProcessor, MultiViewAttnProcessor
from imagedream.runs.arguments import check_arguments
from imagedream.runs.ranges import OneOf, check_value

Controllers = Literal["none", "global", "local", "pixel", "pixel-only"]
"""`pixel` is local + pixel, as in the paper's final model; `pixel-only` has the prompt frame and no image tokens; `none`
reads captions only, as MVDream does."""

Cameras = Literal["canonical", "relative"]
"""From where azimuths count: the object's front (`canonical`, paper §3.2), or the camera that took the prompt
(`relative`, as in Zero123, arXiv 2303.11328)."""

NoImage = Literal["zeros", "plain"]
"""What stands for "no image prompt": `zeros` for features and latents, as in the released sampler, or a `plain` picture of
the views' background colour, encoded as any prompt is (the paper's uni-coloured picture, §4)."""

CAMERA_DIM = 16

MAX_SAMPLE_SIZE = 512
"""Side of a view's latents: 4096 pixels, far more than any network of the family."""

ImageFeatures = Float[Tensor, "group *picture feature"]
"""CLIP features of the prompt: "group patch feature" for the local and the pixel controller, "group feature" for the
global one; of several prompts "group prompt patch feature" and "group prompt feature"."""


@dataclass(frozen=True)
class Condition:
    """What the network is conditioned on besides cameras and time, one row per group of views."""

    text_tokens: Float[Tensor, "group token text_width"]
    """Caption tokens."""
    image_features: ImageFeatures | None = None
    """CLIP hidden states (local controller), CLIP embedding (global controller), or None: no image tokens."""
    prompt_latents: Float[Tensor, "group prompt channel height width"] | None = None
    """Clean latents of the prompts (pixel controller), or None: no prompt frames."""
    prompt_bias: Float[Tensor, "group view prompt"] | None = None
    """Log weight, at most 0, of each prompt in each view (see `imagedream.attention`), or None: all alike."""
    plain_features: ImageFeatures | None = None
    """Like `image_features`, of plain pictures: given where these stand for "no image" (`NoImage`), else None."""
    plain_latents: Float[Tensor, "group prompt channel height width"] | None = None
    """Like `prompt_latents`, likewise."""
    image_weight: Float[Tensor, " group"] | None = None
    """Weight of the image tokens, see `imagedream.controller_weights`; None is 1."""
    frame_weight: Float[Tensor, " group"] | None = None
    """Likewise of the prompt frames."""

    @property
    def inputs(self) -> tuple[Tensor | None, ...]:
        """What `predict_noise` takes after the cameras, in order; of the last three only as many as are needed."""
        tensors = (self.text_tokens, self.image_features, self.prompt_latents)
        extra = [self.prompt_bias, self.image_weight, self.frame_weight]
        while extra and extra[-1] is None:
            extra.pop()
        return (*tensors, *extra)

    def without_image(self) -> "Condition":
        """The one definition of "no image prompt": plain pictures where the condition brings them, otherwise zeros.

        Zero CLIP features and zero latents, in frames that stay there, are what the released code feeds at inference; the
        paper (§4) speaks of a uni-coloured picture. Training drops prompts to exactly what a network uses later, which
        its config says (`NoImage`).
        """

        def nothing(tensor: Tensor | None, plain: Tensor | None) -> Tensor | None:
            return torch.zeros_like(tensor) if plain is None and tensor is not None else plain

        return replace(
            self,
            image_features=nothing(self.image_features, self.plain_features),
            prompt_latents=nothing(self.prompt_latents, self.plain_latents),
        )

    def with_text(self, text_tokens: Float[Tensor, "group token text_width"]) -> "Condition":
        """The same condition with other caption tokens."""
        return replace(self, text_tokens=text_tokens.expand(self.text_tokens.shape[0], -1, -1))

    def map(self, function) -> "Condition":
        """`function` applied to every tensor that is there."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return Condition(**{name: None if t is None else function(t) for name, t in tensors.items()})

    def repeat(self, groups: int) -> "Condition":
        """A condition of one group repeated for `groups` groups."""
        return self.map(lambda tensor: tensor.expand(groups, *tensor.shape[1:]))

    def with_prompt_bias(self, prompt_bias: Float[Tensor, "group view prompt"] | None) -> "Condition":
        """The same condition with weights of the prompts in each view; a single row becomes one per group."""
        if prompt_bias is None:
            return replace(self, prompt_bias=None)
        rows = self.repeat(len(prompt_bias)) if len(self.text_tokens) == 1 else self
        return replace(rows, prompt_bias=prompt_bias.to(self.text_tokens))

    def drop_image(self, dropped: "torch.Tensor") -> "Condition":
        """The condition with the image prompt of the groups marked in `dropped` (bool, one per group) removed."""
        nothing = self.without_image()

        def choose(tensor: Tensor | None, zeros: Tensor | None) -> Tensor | None:
            if tensor is None:
                return None
            return torch.where(dropped.view(-1, *[1] * (tensor.ndim - 1)), zeros, tensor)

        return replace(
            self,
            image_features=choose(self.image_features, nothing.image_features),
            prompt_latents=choose(self.prompt_latents, nothing.prompt_latents),
        )


def concatenate_conditions(conditions: "list[Condition]") -> Condition:
    """One condition with the rows of all of them; every part must be there in all or in none."""

    def join(name: str) -> Tensor | None:
        tensors = [getattr(condition, name) for condition in conditions]
        if all(tensor is None for tensor in tensors):
            return None
        if any(tensor is None for tensor in tensors):
            raise ValueError(
                f"{name} is given in some conditions and absent in others: {len(conditions)} conditions"
            )
        return torch.cat(tensors)

    return Condition(*(join(field.name) for field in fields(Condition)))


class MultiViewUNet(ModelMixin, ConfigMixin):
    """A stock UNet wired for groups of views with known cameras and an image prompt.

    Args:
        unet_config: arguments of `UNet2DConditionModel`; the camera input is added here.
        controllers: which image controllers the network has.
        image_projection_config: arguments of `IPAdapterPlusImageProjection` (local, pixel: `embed_dims`, `hidden_dims`,
            `depth`, `dim_head`, `heads`, `num_queries`) or of `ImageProjection` (global: `image_embed_dim`,
            `num_image_text_embeds`); the output width is the UNet's `cross_attention_dim`. None without image tokens.
        cameras: from where the azimuths of its cameras count.
        no_image: what it has learned to take for "no image prompt".
        trained_on: an entry for each training, the oldest first, so that nobody tests it on that by mistake; changes
            nothing of what it does. Networks from elsewhere have none.

    Raises:
        ValueError: arguments that these classes do not know, or of another type.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        unet_config: dict[str, Any],
        controllers: Controllers,
        image_projection_config: dict[str, Any] | None = None,
        cameras: Cameras = "canonical",
        no_image: NoImage = "zeros",
        trained_on: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__()
        for name, value, allowed in (
            ("controllers", controllers, Controllers),
            ("cameras", cameras, Cameras),
            ("no_image", no_image, NoImage),
        ):
            check_value(name, value, Annotated[str, OneOf(*get_args(allowed))])
        check_arguments(UNet2DConditionModel, unet_config, "unet_config")
        self.unet = UNet2DConditionModel(
            **unet_config, class_embed_type="projection", projection_class_embeddings_input_dim=CAMERA_DIM
        )
        width, size = self.unet.config.cross_attention_dim, self.unet.config.sample_size
        check_value("unet_config: sample_size", size, Annotated[int, Interval(ge=1, le=MAX_SAMPLE_SIZE)])
        tokens = None
        if controllers in ("global", "local", "pixel"):
            projection = ImageProjection if controllers == "global" else IPAdapterPlusImageProjection
            check_arguments(projection, image_projection_config, "image_projection_config")
        if controllers == "global":
            self.image_projection = ImageProjection(cross_attention_dim=width, **image_projection_config)
            tokens = self.image_projection.num_image_text_embeds
        elif controllers in ("local", "pixel"):
            self.image_projection = IPAdapterPlusImageProjection(output_dims=width, **image_projection_config)
            tokens = self.image_projection.latents.shape[1]
        self.unet.set_attn_processor(self._processors(width, tokens))

    def _processors(self, width: int, tokens: int | None) -> Mapping[str, Any]:
        processors = {}
        for name in self.unet.attn_processors:
            if name.endswith("attn1.processor"):
                processors[name] = MultiViewAttnProcessor()
            elif tokens is None:
                processors[name] = CaptionAttnProcessor()
            else:
                hidden_size = self.unet.get_submodule(name.removesuffix(".processor")).inner_dim
                processors[name] = ImagePromptAttnProcessor(hidden_size, width, num_tokens=(tokens,))
        return processors

    @property
    def reads_images(self) -> bool:
        """Whether there are image controllers at all."""
        return self.config.controllers != "none"

    @property
    def uses_image_tokens(self) -> bool:
        """Whether CLIP features of the prompt become tokens (the global and the local controller)."""
        return self.config.controllers in ("global", "local", "pixel")

    @property
    def uses_prompt_frame(self) -> bool:
        """Whether the prompt's latents are a frame of their own (the pixel controller)."""
        return self.config.controllers in ("pixel", "pixel-only")

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one frame."""
        size = self.unet.config.sample_size
        return self.unet.config.in_channels, size, size

    def per_prompt(self, image_features: ImageFeatures) -> Float[Tensor, "group prompt *of_one"]:
        """The features with their prompt axis, which those of a single prompt may lack."""
        axes = 3 if self.config.controllers == "global" else 4
        return image_features if image_features.ndim == axes else image_features[:, None]

    def image_tokens(self, image_features: ImageFeatures) -> Float[Tensor, "group token width"]:
        """Image tokens of all prompts, one prompt after another (MultiImageDream)."""
        features = self.per_prompt(image_features)
        return self.image_projection(features.flatten(0, 1)).unflatten(0, features.shape[:2]).flatten(1, 2)

    def forward(
        self,
        latents: Float[Tensor, "group frame channel height width"],
        timesteps: Int[Tensor, " group"],
        cameras: Float[Tensor, "group frame 16"],
        text_tokens: Float[Tensor, "group token text_width"],
        image_features: ImageFeatures | None = None,
        prompt_bias: Float[Tensor, "group view prompt"] | None = None,
        frame_bias: Float[Tensor, "group view prompt"] | None = None,
        image_weight: Float[Tensor, " group"] | None = None,
    ) -> Float[Tensor, "group frame channel height width"]:
        """The network's output for all frames, views first; `predict_noise` is the friendlier way in."""
        frames = latents.shape[1]

        def per_frame(tensor: Tensor) -> Tensor:
            return tensor.repeat_interleave(frames, dim=0)

        context = per_frame(text_tokens)
        if image_features is not None and not self.uses_image_tokens:
            reads = "prompt frames but no image features" if self.uses_prompt_frame else "captions only"
            raise ValueError(
                f"image_features given, but this network reads {reads} (controllers: {self.config.controllers})"
            )
        if image_features is not None:
            context = (context, [per_frame(self.image_tokens(image_features))])
        output = self.unet(
            latents.flatten(0, 1),
            per_frame(timesteps),
            encoder_hidden_states=context,
            class_labels=cameras.flatten(0, 1),
            cross_attention_kwargs={
                "frames": frames,
                "prompt_bias": prompt_bias,
                "frame_bias": frame_bias,
                "image_weight": image_weight,
            },
            return_dict=False,
        )[0]
        return output.unflatten(0, (-1, frames))


def predict_noise(
    unet: MultiViewUNet,
    latents: Float[Tensor, "group view channel height width"],
    timesteps: Int[Tensor, " group"],
    cameras: Float[Tensor, "group view 16"],
    text_tokens: Float[Tensor, "group token text_width"],
    image_features: ImageFeatures | None = None,
    prompt_latents: Float[Tensor, "group prompt channel height width"] | None = None,
    prompt_bias: Float[Tensor, "group view prompt"] | None = None,
    image_weight: Float[Tensor, " group"] | None = None,
    frame_weight: Float[Tensor, " group"] | None = None,
) -> Float[Tensor, "group view channel height width"]:
    """What the network says of noisy views, in the parametrisation it was trained in (ε, v or x₀: the scheduler knows).

    The prompt's clean latents become the last frames of each group, with an all-zero camera vector and the same
    timestep (paper §3.3, "pixel controller"); their output is dropped. The network computes, and answers, in its own
    precision.

    Args:
        unet: the network.
        latents: noisy latents of each group's views.
        timesteps: one timestep per group, shared by its views.
        cameras: `imagedream.cameras.camera_condition` of each view.
        text_tokens: caption tokens.
        image_features: CLIP hidden states (local) or embedding (global) of one prompt, or with a prompt axis after the
            group's of several; None switches the image tokens off.
        prompt_latents: clean latents of one or more prompt pictures; None adds no frame.
        prompt_bias: log weight of each prompt in each view, at most 0; None weights all alike.
        image_weight: of the image tokens, at least 0; None is 1.
        frame_weight: of the prompt frames in the views' self-attention, likewise.

    Raises:
        ValueError: if prompt latents are given to a network without pixel controller, or the numbers of prompts differ.
    """
    views = latents.shape[1]
    latents, cameras = latents.to(unet.dtype), cameras.to(unet.dtype)
    if prompt_latents is not None:
        if not unet.uses_prompt_frame:
            raise ValueError(
                f"prompt_latents given, but this network's controllers are {unet.config.controllers!r}"
            )
        latents = torch.cat([latents, prompt_latents.to(latents)], dim=1)
        cameras = nn.functional.pad(cameras, (0, 0, 0, prompt_latents.shape[1]))
    if prompt_bias is not None:
        features = None if image_features is None else unet.per_prompt(image_features)
        counts = [part.shape[1] for part in (features, prompt_latents) if part is not None]
        if any(count != prompt_bias.shape[2] for count in counts):
            raise ValueError(f"prompt_bias is for {prompt_bias.shape[2]} prompts, the condition has {counts}")
    frame_bias = prompt_bias
    if frame_weight is not None and prompt_latents is not None:
        weight = frame_weight.to(latents).log()[:, None, None].expand(-1, views, prompt_latents.shape[1])
        frame_bias = weight if prompt_bias is None else prompt_bias + weight
    output = unet(
        latents, timesteps, cameras, text_tokens, image_features, prompt_bias, frame_bias, image_weight
    )
    return output[:, :views]


def signal_and_noise(
    scheduler: Any, timesteps: Int[Tensor, " group"]
) -> tuple[Float[Tensor, "group 1 1 1 1"], Float[Tensor, "group 1 1 1 1"]]:
    """α_t and σ_t of a variance preserving scheduler, shaped to multiply grouped latents."""
    alpha_bar = scheduler.alphas_cumprod.to(timesteps.device)[timesteps].float().reshape(-1, 1, 1, 1, 1)
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


def to_original(
    scheduler: Any,
    model_output: Float[Tensor, "group view c h w"],
    noisy: Float[Tensor, "group view c h w"],
    timesteps: Int[Tensor, " group"],
) -> Float[Tensor, "group view c h w"]:
    """Clean latents x̂0 that a network output in the scheduler's own parametrisation stands for.

    Args:
        scheduler: diffusers scheduler; its `prediction_type` is "epsilon", "v_prediction" or "sample".
        model_output: what the network returned.
        noisy: x_t, what the network was given.
        timesteps: one per group.

    Returns:
        x̂0. For ε: (x_t − σ ε) / α; for v = α ε − σ x0 (Salimans & Ho 2022): α x_t − σ v.

    Raises:
        ValueError: for another prediction type.
    """
    alpha, sigma = signal_and_noise(scheduler, timesteps)
    prediction_type = scheduler.config.prediction_type
    if prediction_type == "epsilon":
        return (noisy - sigma * model_output) / alpha
    if prediction_type == "v_prediction":
        return alpha * noisy - sigma * model_output
    if prediction_type == "sample":
        return model_output
    raise ValueError(f"prediction type is {prediction_type!r}, must be 'epsilon', 'v_prediction' or 'sample'")
