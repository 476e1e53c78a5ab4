"""What a run will need, before it starts: parameters, operations, memory, time, and what is missing. No weights are read.

Operations and activations are counted from the real modules on tensors without numbers (`imagedream.workshop.training.memory`), for one and
for two objects, between which everything grows in a straight line; the rest of the memory is a sum over parameters.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from imagedream import checkpoints
from imagedream.encoders import ImageTextEncoder
from imagedream.model import CAMERA_DIM, MultiViewUNet, predict_noise
from imagedream.workshop.training.architectures import empty_model, fill, published_architecture
from imagedream.workshop.training.autoencoder import AutoencoderTraining
from imagedream.workshop.training.build import PARTS, check_learned, construct
from imagedream.workshop.training.clip import EncoderTraining
from imagedream.workshop.training.diffusion import DiffusionTraining
from imagedream.workshop.training.memory import footprint, operations
from imagedream.workshop.training.modules import Training
from imagedream.workshop.training.optimizers import choose_learned
from imagedream.workshop.training.picture_data import OPTION as PICTURES
from imagedream.workshop.training.rendered_data import find_rendered
from imagedream.workshop.training.shard_data import find
from imagedream.workshop.training.toy_data import VIEWS
from imagedream.workshop.training.trainer import choose_precision
from imagedream.workshop.training.weight_initialisation import start_network

if TYPE_CHECKING:
    from imagedream.workshop.training.run import TrainConfig

A100_PEAK_TFLOPS = 312.0
"""Dense bfloat16 matrix rate of NVIDIA's A100 (its data sheet; an H100 SXM: 989)."""
UTILISATION = 0.4
"""Of the peak, what a training step of this kind is taken to reach: an assumption."""
DEFAULT_TFLOPS = A100_PEAK_TFLOPS * UTILISATION

GIB = 2**30


@dataclass(frozen=True)
class Plan:
    """What a run will need."""

    parameters: Mapping[str, int]
    """Numbers of parameters: `total` and `learned` of the part that is trained; `autoencoder` and `encoder` beside it."""
    object_operations: int
    """Floating point operations for one object: forward, backward, and the frozen parts; a multiply-add is two."""
    picture_operations: int
    """The same for a single picture; 0 where there are none."""
    objects: int
    """Of a step of objects, over all devices and accumulated batches."""
    pictures: int
    """Of a step of pictures, likewise."""
    picture_share: float
    """Of the steps."""
    devices: int
    steps: int
    memory: Mapping[str, int]
    """Bytes on one device, by what they are for."""
    downloads: tuple[str, ...]
    """What will be downloaded."""
    missing: tuple[str, ...]
    """What is not there and must be made or named."""

    @property
    def step_operations(self) -> float:
        """Floating point operations of a step, the mean of steps of objects and of pictures."""
        of_objects = (1 - self.picture_share) * self.objects * self.object_operations
        return of_objects + self.picture_share * self.pictures * self.picture_operations

    def step_seconds(self, tflops: float) -> float:
        """Time of a step at a rate each device sustains; loading and talking between devices come on top."""
        return self.step_operations / (tflops * 1e12 * self.devices)

    def report(self, tflops: float) -> str:
        """All of it in lines."""
        parameters = ", ".join(f"{count / 1e6:.1f} M {what}" for what, count in self.parameters.items())
        seconds = self.step_seconds(tflops)
        at = (
            f"{tflops:g} TFLOP/s a device"
            if tflops != DEFAULT_TFLOPS
            else f"{UTILISATION:.0%} of an A100's {A100_PEAK_TFLOPS:g} TFLOP/s"
        )
        memory = [f"  {size / GIB:8.2f} GiB  {what}" for what, size in self.memory.items()]
        lines = [
            f"parameters: {parameters}",
            f"a step: {self.objects} objects on {self.devices} device{'s' * (self.devices > 1)}, "
            f"{self.object_operations / 1e12:.3g} TFLOP each"
            + (
                f"; {self.picture_share:.0%} of the steps are of {self.pictures} pictures, "
                f"{self.picture_operations / 1e12:.3g} TFLOP each"
                if self.picture_share
                else ""
            ),
            f"time: {seconds:.3g} s a step, {seconds * self.steps / 3600:.1f} h for {self.steps} steps, at {at}, without "
            "loading and talking between devices",
            "memory of a device, without the allocator's losses and the kernels' workspaces:",
            *memory,
            f"  {sum(self.memory.values()) / GIB:8.2f} GiB  in all",
            *(f"to download: {what}" for what in self.downloads),
            *(f"missing: {what}" for what in self.missing),
        ]
        return "\n".join(lines)


def plan(config: "TrainConfig") -> Plan:
    """Count what a run will need.

    Raises:
        ValueError: the config's parts do not fit each other or the starting point, or one of a size of its own is missing.
    """
    if config.lora.rank:
        raise ValueError(
            f"lora.rank is {config.lora.rank}: the dry run counts trainings of the weights themselves, not of adapters"
        )
    config = replace(config, precision=choose_precision(config.precision))
    absent = tuple(missing(config))
    try:
        module = empty_module(config)
    except ValueError as error:
        if absent:  # which is why sizes were guessed, wrongly
            raise ValueError("; ".join(absent)) from error
        raise
    choose_learned(module.model, config.learn)
    check_learned(config, module.model, frozenset())
    if config.activation_checkpointing:
        module.model.enable_gradient_checkpointing()
    parts = {}
    if isinstance(module, DiffusionTraining):
        parts = {"autoencoder": module.pipeline.vae, "encoder": module.pipeline.encoder}
    pictures = config.data.pictures if config.data.pictures.folders else None
    fixed_bytes, object_bytes = _activations(config, module)
    batch, devices = config.data.batch_size, config.devices * config.nodes
    steps_objects = devices * config.accumulate
    return Plan(
        {
            "total": _count(module.model.parameters()),
            "learned": _count(p for p in module.model.parameters() if p.requires_grad),
            **{name: _count(part.parameters()) for name, part in parts.items()},
        },
        object_operations=_operations(config, module, VIEWS),
        picture_operations=_operations(config, module, 1) if pictures else 0,
        objects=batch * steps_objects,
        pictures=(pictures.batch_size or 2 * batch) * steps_objects if pictures else 0,
        picture_share=pictures.share if pictures else 0.0,
        devices=devices,
        steps=config.steps,
        memory={
            **_parameter_bytes(config, module, parts),
            f"activations of {batch} objects, and weights as products take them": fixed_bytes
            + batch * object_bytes,
        },
        downloads=tuple(downloads(config)),
        missing=absent,
    )


def empty_module(config: "TrainConfig") -> Training:
    """The module with parameters that have shapes and no memory.

    Raises:
        ValueError: see `build_module`; the starting point is here and does not fit.
    """
    base = ()
    if config.part == "diffusion":
        published = published_architecture(config.model.get("controllers", "pixel"))
        base = tuple(
            empty_model(model_class, _config_at(source, part) or getattr(published, part), torch.float32)
            for model_class, source, part in (
                (AutoencoderKL, config.autoencoder, "vae"),
                (ImageTextEncoder, config.encoder, "encoder"),
            )
        )
    with init_empty_weights():
        module = construct(config, base)
    initial = _config_at(config.initial, PARTS[config.part]) if config.initial else None
    if initial is not None and config.part == "diffusion":
        start_network(module.model, empty_model(MultiViewUNet, initial, torch.float32))
    return module


def _config_at(source: str, part: checkpoints.Part) -> dict[str, Any] | None:
    """Settings of a part of a source on this machine; None where it must be downloaded, or is missing."""
    try:
        return None if not source or _on_the_hub(source) else checkpoints.part_config(source, part)
    except checkpoints.CheckpointError:
        return None


def _on_the_hub(source: str) -> bool:
    return not checkpoints.names_open_clip(source) and checkpoints.local_path(source) is None


def _sources(config: "TrainConfig") -> dict[str, str]:
    """Where weights come from, by field."""
    names = ("initial", *(("autoencoder", "encoder") if config.part == "diffusion" else ()))
    return {name: getattr(config, name) for name in names}


def downloads(config: "TrainConfig") -> Iterator[str]:
    """What the run will download, in words."""
    for name, source in _sources(config).items():
        if checkpoints.names_open_clip(source):
            if not Path(source.partition(":")[2]).is_file():
                yield f"{name}: {source} (open_clip)"
        elif source and checkpoints.local_path(source) is None:
            yield f"{name}: {source} (Hugging Face hub), unless it has been downloaded before"


def missing(config: "TrainConfig") -> Iterator[str]:
    """What the run needs and is not there, in words."""
    for name, source in _sources(config).items():
        if not source:
            if name != "initial":
                yield f"{name} is empty: name the trained {name}"
            continue
        try:
            checkpoints.check_part(source)
        except checkpoints.CheckpointError as error:
            yield f"{name}: {error}"
    for folder in config.data.rendered.folders:
        try:
            find_rendered([folder])
        except (OSError, ValueError) as error:
            yield str(error)
    for folder in config.data.pictures.folders:
        try:
            find(folder, "", PICTURES)
        except (OSError, ValueError) as error:
            yield str(error)


def _count(parameters) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _parameter_bytes(
    config: "TrainConfig", module: Training, parts: Mapping[str, nn.Module]
) -> dict[str, int]:
    """Bytes of a device that grow with the model and not with the batch."""
    shares = config.devices * config.nodes if config.strategy == "fsdp" else 1
    size = 2 if config.precision in ("bf16-true", "16-true") else 4
    learned = [p for p in module.model.parameters() if p.requires_grad]
    state = module.optimizer_config.state_numbers(learned)
    return {
        "weights": size * _count(module.model.parameters()) // shares,
        "gradients": size * _count(learned) // shares,
        f"state of {module.optimizer_config.kind}": size * state // shares,
        "averaged weights": size * _count(learned) // shares,
        **{f"frozen {name}": 4 * _count(part.parameters()) for name, part in parts.items()},
    }


def _operations(config: "TrainConfig", module: Training, views: int) -> int:
    """Of one object or picture, forward and backward."""
    with _fake(module):
        return operations(_work(module, 1, views, config.precision))


def _activations(config: "TrainConfig", module: Training) -> tuple[int, int]:
    """Bytes that a batch needs at its peak: a part that does not depend on its size, and what each object adds."""
    peaks = []
    with _fake(module):
        for parameter in module.model.parameters():  # so that gradients, counted elsewhere, are there before
            parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
        for objects in (1, 2):
            peaks.append(footprint(_work(module, objects, VIEWS, config.precision)).peak_bytes)
    return 2 * peaks[0] - peaks[1], peaks[1] - peaks[0]


@contextmanager
def _fake(module: Training) -> Iterator[None]:
    """Inside, the module's tensors have everything but numbers, and it may be called."""
    models = [module.model]
    if isinstance(module, DiffusionTraining):
        models += [module.pipeline.vae, module.pipeline.encoder]
    with FakeTensorMode(allow_non_fake_inputs=True):
        for model in models:
            fill(model, lambda name, parameter: torch.empty(parameter.shape, dtype=parameter.dtype), "cpu")
        yield


def _work(module: Training, objects: int, views: int, precision: str) -> Callable[[], None]:
    """A function that does what a batch of so many objects takes: encoding, forward, backward."""
    output = {
        DiffusionTraining: _network_output,
        AutoencoderTraining: _autoencoder_output,
        EncoderTraining: _towers_output,
    }[type(module)]

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision != "32-true"):
            loss = output(module, objects, views).float().square().mean()
        loss.backward()

    return run


def _autoencoder_output(module: AutoencoderTraining, objects: int, _: int) -> Tensor:
    size = module.model.config.sample_size
    pictures = torch.empty(2 * objects, 3, size, size)  # a target and the prompt of each object
    return module.model.decode(module.model.encode(pictures).latent_dist.mode()).sample


def _towers_output(module: EncoderTraining, objects: int, _: int) -> Tensor:
    size = module.model.image_size
    images = module.model.encode_image(torch.empty(objects, 3, size, size)).embedding
    return images @ module.model.embed_text([""] * objects).T


def _network_output(module: DiffusionTraining, groups: int, views: int) -> Tensor:
    pipeline, model = module.pipeline, module.model
    size = pipeline.image_size
    with torch.no_grad():
        prompts = torch.empty(groups, 3, size, size)
        latents = pipeline.encode_images(torch.empty(groups * (views + 1), 3, size, size))
        text = pipeline.encoder.encode_text([""] * groups)
        features = pipeline.image_features(prompts)
    frames = latents[: groups * views].unflatten(0, (groups, views))
    prompt = latents[groups * views :, None] if model.uses_prompt_frame else None
    cameras = torch.empty(groups, views, CAMERA_DIM)
    timesteps = torch.zeros(groups, dtype=torch.long)
    return predict_noise(model, frames, timesteps, cameras, text, features, prompt)
