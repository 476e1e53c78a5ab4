"""What a training of the network will need, before it starts: parameters, operations, memory, time, and what is missing.

No weights are read. Operations and activations are counted from the real network on tensors without numbers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL
from torch import Tensor

from imagedream import checkpoints
from imagedream.encoders import ImageTextEncoder
from imagedream.model import CAMERA_DIM, MultiViewUNet, predict_noise
from imagedream.workshop.training.architectures import empty_model, published_architecture
from imagedream.workshop.training.build import check_learned, construct, named_sources
from imagedream.workshop.training.diffusion import DiffusionTraining
from imagedream.workshop.training.memory import fake_tensors, memory_use, operations
from imagedream.workshop.training.optimizers import choose_learned, state_numbers
from imagedream.workshop.training.train_config import VIEWS, TrainConfig
from imagedream.workshop.training.trainer import choose_precision
from imagedream.workshop.training.training_data import TrainingData
from imagedream.workshop.training.weight_initialisation import start_network

DEFAULT_TFLOPS = 0.4 * 312.0
"""What a device is taken to reach: 40 %, an assumption, of the dense bfloat16 rate of NVIDIA's A100 (its data sheet)."""
GIB = 2**30


@dataclass(frozen=True)
class Plan:
    """What a run will need."""

    config: TrainConfig
    parameters: Mapping[str, int]
    """Their numbers: `total` and `learned` of the part that is trained; `autoencoder` and `encoder` beside it."""
    object_operations: int
    """Floating point operations for one object: forward, backward, and the frozen parts; a multiply-add is two."""
    picture_operations: int
    """The same for a single picture; 0 where there are none."""
    memory: Mapping[str, int]
    """Bytes on one device, by what they are for."""
    missing: tuple[str, ...]
    """What is not there and must be made or named."""

    def step_seconds(self, tflops: float) -> float:
        """Mean time of a step at a rate each device sustains; loading and talking between devices come on top."""
        data = self.config.data
        share = data.pictures.share if data.pictures_a_step else 0.0
        of_objects = (1 - share) * data.batch_size * self.object_operations
        of_pictures = share * data.pictures_a_step * self.picture_operations
        return self.config.accumulate * (of_objects + of_pictures) / (tflops * 1e12)

    def report(self, tflops: float) -> str:
        """All of it in lines."""
        config, data, seconds = self.config, self.config.data, self.step_seconds(tflops)
        batches = config.devices * config.nodes * config.accumulate
        parameters = [f"{count / 1e6:.1f} M {what}" for what, count in self.parameters.items()]
        lines = [
            f"parameters: {', '.join(parameters)}",
            f"a step: {data.batch_size * batches} objects, {self.object_operations / 1e12:.3g} TFLOP each",
            f"time: {seconds:.3g} s a step, {seconds * config.steps / 3600:.1f} h for {config.steps} steps, at "
            f"{tflops:g} TFLOP/s a device, without loading and talking between devices",
            "memory of a device, without the allocator's losses and the kernels' workspaces:",
            *(f"  {size / GIB:8.2f} GiB  {what}" for what, size in self.memory.items()),
            f"  {sum(self.memory.values()) / GIB:8.2f} GiB  in all",
            *(f"to download: {what}" for what in downloads(config)),
            *(f"missing: {what}" for what in self.missing),
        ]
        if data.pictures_a_step:
            lines[1] += (
                f"; {data.pictures.share:.0%} of the steps are of {data.pictures_a_step * batches} pictures, "
                f"{self.picture_operations / 1e12:.3g} TFLOP each"
            )
        return "\n".join(lines)


def plan(config: TrainConfig) -> Plan:
    """Count what a run will need.

    Raises:
        ValueError: the config's parts do not fit each other or the starting point, or it trains something else.
    """
    if config.part != "diffusion" or config.lora.rank:
        what = f"lora.rank {config.lora.rank}" if config.lora.rank else f"part {config.part}"
        raise ValueError(f"the dry run counts trainings of the network itself, not of {what}")
    config = replace(config, precision=choose_precision(config.precision))
    absent = tuple(missing(config))
    try:
        module = empty_module(config)
    except ValueError as error:
        if absent:  # which is why sizes were guessed, wrongly
            raise ValueError("; ".join(absent)) from error
        raise
    model, vae, encoder = module.model, module.pipeline.vae, module.pipeline.encoder
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    parameters = {
        "total": _count(model.parameters()),
        "learned": _count(learned),
        "autoencoder": _count(vae.parameters()),
        "encoder": _count(encoder.parameters()),
    }
    size = 2 if config.precision in ("bf16-true", "16-true") else 4
    memory = {
        "weights": size * parameters["total"],
        "gradients": size * parameters["learned"],
        f"state of {config.optimizer.kind}": size * state_numbers(config.optimizer, learned),
        "averaged weights": size * parameters["learned"],
        "frozen autoencoder and encoder": 4 * (parameters["autoencoder"] + parameters["encoder"]),
    }
    objects = config.data.batch_size
    with fake_tensors([model, vae, encoder]):
        of_object = operations(_step(config, module, 1, VIEWS))
        of_picture = operations(_step(config, module, 1, 1)) if config.data.pictures_a_step else 0
        # gradients, counted already, are there by now
        peak = memory_use(_step(config, module, objects, VIEWS)).peak_bytes
    memory[f"activations of {objects} objects, and weights as products take them"] = peak
    return Plan(config, parameters, of_object, of_picture, memory, absent)


def empty_module(config: TrainConfig) -> DiffusionTraining:
    """The module with parameters that have shapes and no memory.

    Raises:
        ValueError: see `build_module`; the starting point is here and does not fit.
    """
    published = published_architecture(config.model.get("controllers", "pixel"))
    vae = _config_at(config.autoencoder, "vae") or published.vae
    encoder = _config_at(config.encoder, "encoder") or published.encoder
    frozen = (
        empty_model(AutoencoderKL, vae, torch.float32),
        empty_model(ImageTextEncoder, encoder, torch.float32),
    )
    with init_empty_weights():
        module = construct(config, frozen)
    initial = _config_at(config.initial, "unet")
    if initial is not None:
        start_network(module.model, empty_model(MultiViewUNet, initial, torch.float32))
    choose_learned(module.model, config.learn)
    check_learned(config, module.model, frozenset())
    if config.activation_checkpointing:
        module.model.enable_gradient_checkpointing()
    return module


def _config_at(source: str, part: checkpoints.Part) -> dict[str, Any] | None:
    """Settings of a part of a source on this machine; None where it must be downloaded, or is missing."""
    here = checkpoints.names_open_clip(source) or checkpoints.local_path(source) is not None
    try:
        return checkpoints.part_config(source, part) if source and here else None
    except checkpoints.CheckpointError:
        return None


def downloads(config: TrainConfig) -> Iterator[str]:
    """What the run will download, in words."""
    for name, source in named_sources(config).items():
        if checkpoints.names_open_clip(source):
            if not Path(source.partition(":")[2]).is_file():
                yield f"{name}: {source} (open_clip)"
        elif source and checkpoints.local_path(source) is None:
            yield f"{name}: {source} (Hugging Face hub), unless it has been downloaded before"


def missing(config: TrainConfig) -> Iterator[str]:
    """What the run needs and is not there, in words."""
    for name, source in named_sources(config).items():
        try:
            if source:
                checkpoints.check_part(source)
            elif name != "initial":
                yield f"{name} is empty: name the trained {name}"
        except checkpoints.CheckpointError as error:
            yield f"{name}: {error}"
    try:
        TrainingData(config.data, config.seed)
    except (OSError, ValueError) as error:
        yield str(error)


def _count(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _step(config: TrainConfig, module: DiffusionTraining, groups: int, views: int) -> Callable[[], None]:
    """A function that does what a batch of so many groups takes: encoding, forward, backward."""
    pipeline, size = module.pipeline, module.pipeline.image_size

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision != "32-true"):
            with torch.no_grad():
                latents = pipeline.encode_images(torch.empty(groups * (views + 1), 3, size, size))
                text = pipeline.encoder.encode_text([""] * groups)
                features = pipeline.image_features(torch.empty(groups, 3, size, size))
            frames = latents[: groups * views].unflatten(0, (groups, views))
            prompt = latents[groups * views :, None] if module.model.uses_prompt_frame else None
            timesteps, cameras = torch.zeros(groups, dtype=torch.long), torch.empty(groups, views, CAMERA_DIM)
            output = predict_noise(module.model, frames, timesteps, cameras, text, features, prompt)
            loss = output.float().square().mean()
        loss.backward()

    return run
