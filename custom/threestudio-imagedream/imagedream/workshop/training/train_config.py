"""Everything a training run is made of, as dataclasses, and how a YAML file becomes one. No other file of the training is read here."""

from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Interval
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from imagedream.runs.ranges import (
    AscendingPair,
    Count,
    CountOrZero,
    Fraction,
    NotNegative,
    OneOf,
    Positive,
    Rate,
    Seed,
    Timesteps,
    ascending,
    check_finite,
    check_ranges,
    check_value,
)
from imagedream.runs.settings import as_typed, read_settings
from imagedream.toybox import FIRST_KINDS, KINDS

VIEWS = 4
"""Target views of an object in a group, a quarter turn apart."""


@dataclass(frozen=True)
class SampleConfig:
    """What one toy's training sample looks like. Ranges are uniform."""

    kinds: list[str] = field(default_factory=lambda: list(FIRST_KINDS))
    """Kinds of toys, drawn evenly; one that is named twice is drawn twice as often."""
    image_size: Annotated[int, Interval(ge=8, le=2**14)] = 64
    """Side of all views in pixels."""
    groups: Count = 2
    """Groups of four target views an object."""
    prompts: Count = 2
    """Prompt views an object."""
    elevation_deg: Annotated[AscendingPair, Interval(gt=-90, lt=90)] = (0.0, 20.0)
    """Target cameras."""
    fov_y_deg: Annotated[AscendingPair, Interval(gt=0, lt=180)] = (45.0, 50.0)
    """Target cameras; the network is not told, so keep it narrow."""
    relative_distance: Annotated[AscendingPair, Interval(gt=0)] = (0.71, 0.75)
    """Target cameras: half the frame's height at the origin, in world units."""
    prompt_azimuth_deg: AscendingPair = (-90.0, 90.0)
    """Prompt cameras: the front half circle (paper §4)."""
    prompt_elevation_deg: Annotated[AscendingPair, Interval(gt=-90, lt=90)] = (0.0, 25.0)
    """Prompt cameras."""
    prompt_fov_y_deg: Annotated[AscendingPair, Interval(gt=0, lt=180)] = (25.0, 55.0)
    """Prompt cameras."""
    prompt_fraction: Annotated[AscendingPair, Interval(gt=0, le=1)] = (0.8, 0.95)
    """The prompt object's longest side over the frame's; `imagedream.image_prompt` prepares pictures at 0.90."""
    prompt_light: Annotated[str, OneOf("random", "fixed")] = "random"
    """`random`: each prompt view has a light of its own (ImageDream's future work, paper §5); `fixed`: all have the
    targets'."""

    def __post_init__(self):
        unknown = set(self.kinds) - set(KINDS)
        if unknown or not self.kinds:
            raise ValueError(f"kinds has unknown {sorted(unknown)}; the toybox knows {', '.join(KINDS)}")
        check_ranges(self, "data.sample")


@dataclass(frozen=True)
class RenderedConfig:
    """Objects that `python -m imagedream render` has made views of."""

    folders: list[str] = field(default_factory=list)
    """Folders with shards or views, at any depth; none: only toys."""
    share: Annotated[float, Interval(gt=0, le=1)] = 1.0
    """Of the objects that are learned from, as often as they are shown; the rest are toys."""
    image_size: Annotated[int, Interval(ge=8, le=2**14)] = 256
    """Side of all views in pixels; larger ones are reduced."""
    own_prompts: Fraction = 0.5
    """Probability that the prompt has its own camera and light, where a sample brings such views; otherwise it is one of
    the ring's 16 (of 32) views from azimuth −90 up to 90, as in the paper (§4), where it is always so."""
    prompt_fraction: Annotated[AscendingPair, Interval(gt=0, le=1)] = (0.8, 0.95)
    """The prompt object's longest side over the frame's; `imagedream.image_prompt` prepares pictures at 0.90."""
    prompt_azimuth_deg: AscendingPair = (-180.0, 180.0)
    """Of prompt views with their own camera: which of a sample's are used."""
    prompt_elevation_deg: AscendingPair = (-90.0, 90.0)
    """Likewise."""
    prompt_fov_y_deg: AscendingPair = (0.0, 180.0)
    """Likewise."""
    caption_suffix: str = ""
    """Appended to captions that do not say "3d"; MVDream's is ", 3d asset"."""
    skip_broken: bool = False
    """Leave broken samples out, with a warning."""

    def __post_init__(self):
        check_ranges(self, "data.rendered")


@dataclass(frozen=True)
class PicturesConfig:
    """Single pictures with captions, see `imagedream.workshop.training.picture_data`."""

    folders: list[str] = field(default_factory=list)
    """Folders with shards, at any depth (`KEY.jpg` and `KEY.txt`, or `KEY.json` with `caption`, as img2dataset writes
    them); none: only objects."""
    share: Annotated[float, Interval(gt=0, lt=1)] = 0.3
    """Of the steps (MVDream: 0.3)."""
    batch_size: Count | None = None
    """Pictures a step; twice `data.batch_size` when null."""
    prompt_crop: Annotated[AscendingPair, Interval(ge=0.01, le=1)] = (0.7, 1.0)
    """Side of the prompt over the side of the picture that it is cut out of."""
    skip_broken: bool = False
    """Leave broken samples out, with a warning."""

    def __post_init__(self):
        check_ranges(self, "data.pictures")


@dataclass(frozen=True)
class DataConfig:
    """Where training samples come from."""

    sample: SampleConfig = field(default_factory=SampleConfig)
    """How toys are rendered."""
    rendered: RenderedConfig = field(default_factory=RenderedConfig)
    """Rendered objects, instead of toys or among them."""
    pictures: PicturesConfig = field(default_factory=PicturesConfig)
    """Single pictures among the objects."""
    cache: str = "cache"
    """Folder of the rendered toys, and of what is known of shards."""
    objects: Count = 6144
    """Toys to train on."""
    validation_objects: CountOrZero = 128
    """Objects kept apart to watch the loss: further toys, and the last of the rendered objects; with 0 (a few own objects)
    the loss is watched on those it learns from."""
    batch_size: Count = 16
    """Objects a step and process."""
    workers: Annotated[int, Interval(ge=1, le=1024)] | None = None
    """Processes that render toys and check shards; all cores when null."""
    loader_workers: Annotated[int, Interval(ge=0, le=1024)] = 0
    """Processes that prepare batches while the network learns; 0 prepares them in between."""

    def __post_init__(self):
        check_ranges(self, "data")
        if not self.validation_objects and (self.mixes or not self.rendered.folders):
            raise ValueError("data.validation_objects is 0, must be at least 1 for toys")
        if self.mixes and self.rendered.image_size != self.sample.image_size:
            raise ValueError(
                f"data.rendered.image_size is {self.rendered.image_size}, data.sample.image_size {self.sample.image_size}: "
                "where both are mixed (data.rendered.share below 1), they must be the same"
            )

    @property
    def image_size(self) -> tuple[str, int]:
        """The key that says how large all pictures are, and their side in pixels."""
        part = "rendered" if self.rendered.folders else "sample"
        return f"data.{part}.image_size", getattr(self, part).image_size

    @property
    def pictures_a_step(self) -> int:
        """Pictures a step of pictures and process; 0 if there are none."""
        return (self.pictures.batch_size or 2 * self.batch_size) if self.pictures.folders else 0

    @property
    def mixes(self) -> bool:
        """Whether there are toys among rendered objects."""
        return bool(self.rendered.folders) and self.rendered.share < 1

    @property
    def seen(self) -> list[dict[str, Any]]:
        """The entries of this data in a network's `trained_on`; folders by name, since paths are nobody's business."""
        seen = []
        if self.rendered.folders:
            seen.append(
                {"data": "rendered", "folders": [Path(folder).name for folder in self.rendered.folders]}
            )
        if not self.rendered.folders or self.mixes:
            kinds = list(dict.fromkeys(self.sample.kinds))
            seen.append(
                {"data": "toybox", "kinds": kinds, "split": "train", "first_seed": 0, "objects": self.objects}
            )
        if self.mixes:
            for entry, share in zip(seen, (self.rendered.share, 1 - self.rendered.share), strict=True):
                entry["share"] = round(share, 3)
        pictures = [Path(folder).name for folder in self.pictures.folders]
        common = {"batch_size": self.batch_size, **({"pictures": pictures} if pictures else {})}
        return [{**entry, **common} for entry in seen]


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser, a warm-up and a decay of its learning rate, see `imagedream.workshop.training.optimizers`."""

    kind: Annotated[str, OneOf("adamw", "muon")] = "adamw"
    """`adamw` (Loshchilov and Hutter, arXiv 1711.05101; the paper's); or `muon` (matrices by their directions, the rest
    by AdamW), which keeps of a matrix one of its size instead of two."""
    learning_rate: Rate = 1e-4
    """Peak learning rate."""
    weight_decay: Rate = 0.01
    """Of matrices and kernels; not for biases, norms and embeddings."""
    betas: Annotated[tuple[float, float], Interval(ge=0, lt=1)] = (0.9, 0.99)
    """AdamW's, and of what Muon leaves to it."""
    schedule: Annotated[str, OneOf("cosine", "linear", "constant")] = "cosine"
    """How the rate falls from its peak to `final_fraction` of it at the last step; `constant` does not."""
    warmup_steps: CountOrZero = 100
    """Linear warm-up."""
    final_fraction: Fraction = 0.02
    """Learning rate at the last step over the peak."""

    def __post_init__(self):
        check_ranges(self, "optimizer")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685) of the network's attention."""

    rank: Annotated[int, Interval(ge=0, le=2**16)] = 0
    """Of the corrections; 0 trains the network itself."""
    weights: str = "toybox"
    """The model that is corrected, all of its parts: anything that `imagedream.checkpoints.load` knows."""
    alpha: Positive = 16.0
    """Corrections are scaled by alpha / rank."""
    target_modules: list[str] = field(
        default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0", "to_k_ip.0", "to_v_ip.0"]
    )
    """Ends of the names of matrices that are corrected: those of self- and cross-attention, and the image controllers'."""

    def __post_init__(self):
        check_ranges(self, "lora")


@dataclass(frozen=True)
class ConditioningConfig:
    """How often the network is trained without what it will sometimes have to do without."""

    prompt_dropout: Fraction = 0.1
    """Probability of no image prompt (paper §4): of exactly what the network takes for one later, `model.no_image`."""
    caption_dropout: Fraction = 0.1
    """Probability of the empty caption."""
    white_background: Fraction = 0.4
    """Fraction of groups in front of white; those that are neither this nor that stand in front of any colour."""
    grey_background: Fraction = 0.2
    """Fraction of groups in front of some grey; MVDream: 1."""
    timesteps: Annotated[list[list[float]], Interval(ge=0, le=1)] = field(
        default_factory=lambda: [[1.0, 0.0, 1.0]]
    )
    """Which noise levels are drawn: pieces of [share of the draws, lowest, highest level], levels as fractions of all
    timesteps, uniform within a piece. One piece of [1, 0, 1] is the paper's; [0.3, 1, 1] is for the last level alone, at
    which sampling begins and only the conditions tell what the object looks like."""

    def __post_init__(self):
        check_ranges(self, "conditioning")
        both = self.white_background + self.grey_background
        check_value("conditioning.white_background and grey_background: their sum", both, Fraction)
        for piece in self.timesteps:
            if len(piece) != 3 or not ascending(piece[1:]):
                raise ValueError(
                    f"conditioning.timesteps has {piece}, must be [share, lowest, highest level]"
                )
        total = sum(share for share, *_ in self.timesteps)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"conditioning.timesteps: the shares sum to {total:g}, must sum to 1")


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights in the loss, see `imagedream.workshop.training.objectives`."""

    channel_weights: Annotated[list[float], Interval(gt=0)] | None = None
    """What the squared error of each latent channel is multiplied with, such as what a channel is worth in pixels; they
    are divided by their mean. Null: all alike."""

    def __post_init__(self):
        check_ranges(self, "objective")


@dataclass
class TrainConfig:
    """Everything a training run is made of."""

    part: str = MISSING
    """What is trained: encoder, autoencoder or diffusion."""
    out: str = MISSING
    """Run folder: `model/` (the trained part), `checkpoints/last.ckpt`, `config.yaml`, `stats.jsonl`."""
    model: dict[str, Any] = field(default_factory=dict)
    """Arguments of `ImageTextEncoder`, `AutoencoderKL` or `MultiViewUNet`; what is left out of the latter's is the published
    network's (`imagedream.workshop.training.architectures`)."""
    scheduler: dict[str, Any] = field(default_factory=dict)
    """Arguments of `DDIMScheduler`; what is left out is the published model's (diffusion)."""
    initial: str = ""
    """What to start from: the folder of a trained part (`.../unet`, `.../vae`, `.../encoder`), or anything that
    `imagedream.checkpoints.load` knows: a model folder, an official ImageDream or MVDream file, Stable Diffusion 2.1, an id
    on the hub; empty: random weights."""
    learn: Any = "all"
    """What is learned: `all`, `controllers`, or a list of names of parameters or modules; the rest stays frozen."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """An adapter beside the network's weights instead of these (diffusion)."""
    autoencoder: str = ""
    """The autoencoder to work with: its folder, or a model as for `initial` (diffusion)."""
    encoder: str = ""
    """The CLIP to work with: its folder, a model as for `initial`, or `ARCHITECTURE:WEIGHTS` of open_clip (diffusion)."""
    data: DataConfig = field(default_factory=DataConfig)
    """Samples and batches."""
    principal_encoder: bool = False
    """Principal components for an encoder, only the decoder learns (autoencoder)."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimiser and learning rate."""
    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    """Dropout of conditions (diffusion)."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """Weights of the noise levels (diffusion)."""
    steps: Count = 1000
    """Optimiser steps."""
    seed: Seed = 0
    """Of everything random."""
    precision: Annotated[
        str, OneOf("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")
    ] = "32-true"
    """Lightning's; `auto` is bf16-mixed where the device computes in bfloat16, else 32-true."""
    accumulate: Count = 1
    """Batches a step."""
    gradient_clip: NotNegative = 1.0
    """Largest gradient norm."""
    ema_decay: Annotated[float, Interval(ge=0, lt=1)] = 0.999
    """Of the averaged weights, which are what is saved."""
    validate_every: Count = 200
    """Steps between validations."""
    validation_views: CountOrZero = 4
    """Validation objects of which four views are sampled, drawn and scored at each validation; 0 is none (diffusion)."""
    validation_view_steps: Annotated[int, Interval(ge=1, le=1000)] = 20
    """Sampler steps of these."""
    log_every: Count = 10
    """Steps between lines of stats.jsonl."""
    tensorboard: bool = False
    """The same numbers and pictures for TensorBoard, in `tensorboard/` (needs the package)."""
    checkpoint_minutes: Positive = 5.0
    """Minutes between checkpoints and snapshots of the model."""
    checkpoint_steps: CountOrZero = 0
    """Steps between checkpoints, besides; 0 goes by time alone."""
    keep_checkpoints: Count = 2
    """The newest that stay."""
    resume_changed: bool = False
    """Resume although the config has changed since; learning rates stay those of the checkpoint."""
    devices: Count = 1
    """Devices (on a CPU: processes) of each machine; several train by DDP."""
    nodes: Count = 1
    """Machines."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    compile: bool = False
    """`torch.compile` for the trained part."""

    def __post_init__(self):
        check_ranges(self)
        check_finite({"model": self.model, "scheduler": self.scheduler})
        timesteps = self.scheduler.get("num_train_timesteps", 1000)
        check_value("scheduler.num_train_timesteps", timesteps, Timesteps)
        names = isinstance(self.learn, list) and self.learn and all(isinstance(n, str) for n in self.learn)
        if not names and self.learn not in ("all", "controllers"):
            raise ValueError(
                f"learn is {self.learn!r}, must be all, controllers or a list of names of parameters"
            )
        if self.lora.rank:
            self._check_lora()

    def _check_lora(self) -> None:
        """Raise ValueError for settings that an adapter leaves no room for."""
        if self.part != "diffusion":
            raise ValueError(f"lora.rank is {self.lora.rank}, which is for part diffusion, not {self.part}")
        for name in ("model", "scheduler", "initial", "autoencoder", "encoder"):
            if getattr(self, name):
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, but with lora.rank {self.lora.rank} all parts come from "
                    f"lora.weights ({self.lora.weights})"
                )
        if self.learn != "all":
            raise ValueError(
                f"learn is {self.learn}, but with lora.rank {self.lora.rank} the network stays frozen"
            )


def read_config(path: str | Path, overrides: list[str] | None = None) -> TrainConfig:
    """A YAML file and `key=value` overrides; unknown keys and wrong types are errors.

    `base` in the file names another one, of which this one is a change (`imagedream.runs.settings`).

    Raises:
        ValueError: saying which key, and what is allowed.
    """
    path = Path(path)
    if not path.is_file():
        known = sorted(str(p) for p in Path("configs/train").glob("*.yaml"))
        raise ValueError(
            f"no training config at {path}" + (f"; there are {', '.join(known)}" if known else "")
        )
    where = str(path)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(TrainConfig), read_settings(path))
        for override in overrides or ():
            where = override[:200]
            change = OmegaConf.from_dotlist([as_typed(override, TrainConfig)])
            merged = OmegaConf.merge(merged, change)
        where = str(path)
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        at = f" (at {error.full_key})" if error.full_key else ""
        known = ""
        if isinstance(error, ConfigKeyError | ConfigAttributeError) and is_dataclass(error.object_type):
            known = f"; known are {', '.join(key.name for key in fields(error.object_type))}"
        raise ValueError(f"{where}: {str(error).splitlines()[0]}{at}{known}") from error
    except (TypeError, OverflowError) as error:  # a list for a mapping; more digits than a fraction has
        raise ValueError(f"{where}: {error}") from error
    check_value(f"{path}: part", config.part, Annotated[str, OneOf("encoder", "autoencoder", "diffusion")])
    return config
