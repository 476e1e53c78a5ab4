"""Every published format of the model -> the same `ImageDreamPipeline`, strictly.

A source is `toybox` (the small model that ships), a folder, a file, or an id on the Hugging Face hub. What it holds is
found out from names and shapes alone (`layouts`); every tensor must be accounted for before any is read; and reading
needs little memory besides the model itself (`tensors`).
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from imagedream.checkpoints.adapters import check_adapter, merge_adapter
from imagedream.checkpoints.errors import CheckpointError, check_finite, differences, refusing
from imagedream.checkpoints.formats import (
    Blueprint,
    Component,
    Part,
    check_folder,
    is_part,
    read_blueprint,
    read_part,
)
from imagedream.checkpoints.hub import (
    PUBLISHED,
    TOYBOX,
    check_source,
    describe_source,
    fetch,
    local_path,
    published_controllers,
)
from imagedream.checkpoints.open_clip_weights import (
    load_open_clip,
    names_open_clip,
    open_clip_config,
    open_clip_file,
)
from imagedream.checkpoints.tensors import Tensors, in_portions
from imagedream.runs.arguments import check_arguments
from imagedream.runs.ranges import Timesteps, check_value

if TYPE_CHECKING:
    from imagedream.pipeline import ImageDreamPipeline

__all__ = [
    "PUBLISHED",
    "TOYBOX",
    "CheckpointError",
    "check",
    "check_adapter",
    "check_part",
    "load",
    "load_part",
    "local_path",
    "merge_adapter",
    "names_open_clip",
    "part_config",
]

logger = logging.getLogger(__name__)


def check(source: str | Path) -> None:
    """Raise CheckpointError, in no time and without reading weights, if `load` cannot succeed with `source`."""
    check_source(source)
    path = local_path(source)
    if path is not None and path.is_dir():
        check_folder(path)


def load(
    source: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    controllers: str | None = None,
    adapter: str | Path | None = None,
    adapter_scale: float = 1.0,
) -> "ImageDreamPipeline":
    """A ready pipeline.

    Args:
        source: `toybox`, a folder, a file, or a hub id (`owner/name`, `owner/name/file.pt`), which is downloaded.
        dtype: of all weights.
        device: where they go.
        controllers: `local` or `pixel`, for a file that holds image tokens: the published local and pixel models
            have the same tensors, so nothing in a file tells them apart. None takes what a folder of ours says, what is
            known of a download, or `pixel`.
        adapter: file of a LoRA adapter that is merged into the network, such as a training with `lora` leaves.
        adapter_scale: how much of it.

    Raises:
        CheckpointError: if there is nothing usable at `source`, or names or shapes do not fit.
    """
    # heavy imports wait until the cheap checks have passed
    check(source)
    if adapter is not None:
        check_adapter(adapter)
    path = fetch(source)
    blueprint = _read(path)
    unet = _choose_controllers(blueprint, path, controllers)
    blueprint = replace(blueprint, parts={**blueprint.parts, "unet": unet})
    models = _empty_models(blueprint, path)

    from imagedream.pipeline import ImageDreamPipeline

    components = {**models, "scheduler": _scheduler(blueprint.scheduler, path), **blueprint.pipeline}
    with refusing(str(path)):
        check_arguments(ImageDreamPipeline, components, "model_index.json")
        pipeline = ImageDreamPipeline(**components)
    logger.info("%s: %s", describe_source(source), blueprint.description)
    for part, model in models.items():
        _fill(model, blueprint.tensors, blueprint.parts[part].piece, dtype)
    if adapter is not None:
        merge_adapter(pipeline.unet, adapter, adapter_scale)
    return pipeline.to(device)


def check_part(source: str | Path) -> None:
    """Raise CheckpointError, without reading weights, if `load_part` cannot succeed with `source`."""
    if names_open_clip(source):
        open_clip_config(source)
        return
    path = local_path(source)
    if path is None or not is_part(path):
        check(source)


def load_part(source: str | Path, part: Part) -> tuple["torch.nn.Module", frozenset[str]]:
    """One part of a model in float32: from its own folder, or from anything that `load` knows, of which only it is read.

    Args:
        source: a folder with `config.json` and weights; as for `load`; or, for the encoder, `ARCHITECTURE:WEIGHTS` of
            open_clip.
        part: which.

    Returns:
        The part, frozen, and the names of its tensors that the source lacks: the camera layers of Stable Diffusion, which
        have no influence yet.

    Raises:
        CheckpointError: if there is nothing usable at `source`, or names or shapes do not fit.
    """
    check_part(source)
    if part == "encoder" and names_open_clip(source):
        path, blueprint = Path(source), open_clip_file(source)
        if blueprint is None:
            return load_open_clip(source), frozenset()
    else:
        path = fetch(source)
        blueprint = _read(path, part)
    model, piece = _empty_models(blueprint, path)[part], blueprint.parts[part].piece
    logger.info("%s: %s of %s", part, describe_source(source), blueprint.description)
    new = frozenset(name for name in model.state_dict() if piece(name) is None)
    return _fill(model, blueprint.tensors, piece, torch.float32), new


def part_config(source: str | Path, part: Part) -> dict[str, Any]:
    """Settings of one part of a source that is no id on the hub, without reading weights.

    Raises:
        CheckpointError: if there is nothing usable.
    """
    check_part(source)
    if part == "encoder" and names_open_clip(source):
        return open_clip_config(source)
    return dict(_read(local_path(source), part).parts[part].config)


def _classes() -> dict[Part, type]:
    from diffusers import AutoencoderKL

    from imagedream.encoders import ImageTextEncoder
    from imagedream.model import MultiViewUNet

    return {"unet": MultiViewUNet, "vae": AutoencoderKL, "encoder": ImageTextEncoder}


def _read(path: Path, part: Part | None = None) -> Blueprint:
    """What is at a path; its settings are such as its classes take."""
    blueprint = read_part(path, part) if part and is_part(path) else read_blueprint(path)
    for name, component in blueprint.parts.items():
        with refusing(str(path)):
            check_arguments(_classes()[name], component.config, name)
    return blueprint


def _scheduler(config: Mapping[str, Any], path: Path):
    """The scheduler, tried out for two steps before any weights are read."""
    import diffusers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    from imagedream.pipeline import make_sampler

    name = config.get("_class_name")
    scheduler_class = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (isinstance(scheduler_class, type) and issubclass(scheduler_class, SchedulerMixin)):
        raise CheckpointError(f"{path}: {name!r} is not a scheduler of diffusers")
    # a scheduler that was made from another's settings is saved with all of them
    own = {key: value for key, value in config.items() if key in signature(scheduler_class).parameters}
    with refusing(f"{path}: the scheduler's settings"):
        check_arguments(scheduler_class, own, name)
        check_value("num_train_timesteps", own.get("num_train_timesteps", 1000), Timesteps)
        scheduler = scheduler_class.from_config(config)
        tried = make_sampler("ddim", scheduler)
        tried.set_timesteps(2)
        sample = torch.zeros(1, 1, 1, 1)
        for step in tried.timesteps:
            sample = tried.step(sample, step, sample).prev_sample
        if not (
            sample.isfinite().all() and ((tried.alphas_cumprod >= 0) & (tried.alphas_cumprod <= 1)).all()
        ):
            raise ValueError("its noise levels are not within 0 and 1")
    return scheduler


def _choose_controllers(blueprint: Blueprint, path: Path, wanted: str | None) -> Component:
    """The network's settings with the controllers that were asked for."""
    unet = blueprint.parts["unet"]
    found = unet.config["controllers"]
    if wanted is None and not blueprint.names_controllers and found == "pixel":
        wanted = published_controllers(path)
        if wanted is None:
            logger.info(
                "local and pixel models have the same tensors; taken as pixel (controllers=local for the other)"
            )
    if wanted is None or wanted == found:
        return unet
    if {wanted, found} != {"local", "pixel"}:
        raise CheckpointError(f"controllers is {wanted!r}, but these weights have {found!r} controllers")
    return Component({**unet.config, "controllers": wanted}, unet.piece)


def _empty_models(blueprint: Blueprint, path: Path) -> dict[Part, Any]:
    """Models whose parameters have shapes but no memory yet.

    Raises:
        CheckpointError: a tensor of theirs is not in the files with its shape, or a weight there is in no model.
    """
    from diffusers.models.modeling_utils import no_init_weights

    models = {}
    for part, one in blueprint.parts.items():
        with (
            refusing(f"{path}: the {part}'s settings"),
            torch.device("meta"),
            no_init_weights(),
            _at_most(
                4 * len(blueprint.tensors.shapes) + 100
            ),  # a tensor there may be two here, and some start anew
        ):
            models[part] = _classes()[part](**one.config)
    if "vae" in models:
        vae = models["vae"].config
        unread = [
            name for name in ("shift_factor", "latents_mean", "latents_std") if vae.get(name) is not None
        ]
        if unread or not vae.scaling_factor > 0:
            name = unread[0] if unread else "scaling_factor"
            raise CheckpointError(
                f"{path}: the vae's {name} is {vae[name]}, which is no model of this family"
            )
    known = blueprint.tensors.shapes
    expected, found, used = {}, {}, set()
    for part, model in models.items():
        for name, tensor in model.state_dict().items():
            piece = blueprint.parts[part].piece(name)
            if piece is None:
                continue
            label = piece.label
            expected[label] = tuple(tensor.shape)
            if all(source in known for source in piece.names):
                found[label] = piece.shape(known)
            used.update(piece.names)
    unexpected = {name for name in known if name not in used and not blueprint.ignores(name)}
    problem = differences(expected, found, unexpected)
    if problem:
        raise CheckpointError(f"{path} looks like {blueprint.description}, but does not fit: {problem}")
    empty = sorted(name for name in used if 0 in known.get(name, ()))
    if empty:
        raise CheckpointError(f"{path}: {len(empty)} tensors hold nothing: {', '.join(empty[:3])}")
    other = sorted(name for name in used if not blueprint.tensors.places[name].floating)
    if other:
        raise CheckpointError(
            f"{path}: {len(other)} tensors hold no floating-point numbers, as weights do: {', '.join(other[:3])}"
        )
    return models


@contextmanager
def _at_most(parameters: int) -> Iterator[None]:
    """Models made here have no more parameters: settings that ask for a million layers end at once."""
    count = 0

    def check(*_) -> None:
        nonlocal count
        count += 1
        if count > parameters:
            raise ValueError(f"they ask for more than {parameters} tensors, many more than the files hold")

    handle = register_module_parameter_registration_hook(check)
    try:
        yield
    finally:
        handle.remove()


def _fill(model, tensors: Tensors, piece, dtype: torch.dtype):
    """Read a model's tensors in its final precision; those without a place start anew, silent.

    Raises:
        CheckpointError: a number is not finite.
    """
    state = model.state_dict()
    pieces = {name: piece(name) for name in state}
    new = {name: tuple(state[name].shape) for name in state if pieces[name] is None}
    placed = {name: place for name, place in pieces.items() if place is not None}
    for portion in chain([_new_tensors(new)] if new else [], in_portions(tensors, placed)):
        # copies: a part of a larger tensor must not keep the whole of it
        copies = {name: tensor.to(dtype, copy=True).contiguous() for name, tensor in portion.items()}
        for name in copies.keys() & placed.keys():
            file = tensors.places[placed[name].names[0]].file
            check_finite(f"{file}: {placed[name].label}", copies[name])
        model.load_state_dict(copies, strict=False, assign=True)
    # masks and the like, which are in no file; diffusers' own `to` warns even with nothing to keep in float32
    return torch.nn.Module.to(model, dtype).eval().requires_grad_(False)


def _new_tensors(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Starting values of what the source does not have: a camera embedding whose last layer is zero has no influence."""
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    for name, tensor in tensors.items():
        if name.endswith("linear_1.weight"):
            tensor.uniform_(-1, 1, generator=generator).div_(tensor.shape[1] ** 0.5)
    return tensors
