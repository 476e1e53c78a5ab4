"""The trained parts put together into one model folder, small enough to ship."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from imagedream import checkpoints
from imagedream.checkpoints.errors import check_finite, differences
from imagedream.pipeline import ImageDreamPipeline
from imagedream.runs.arguments import parse_object
from imagedream.runs.files import atomic_folder, atomic_path

_LOSSES = ("train/loss", "validation/loss")


def assemble(
    network: Path,
    autoencoder: Path | None,
    out: Path,
    others: Sequence[str | Path] = (),
    **sampling: float | int | None,
) -> Path:
    """A model folder from a trained network and a (perhaps further trained) autoencoder with the same encoder.

    Args:
        network: run folder of the multi-view network; its `model/` is a whole pipeline.
        autoencoder: run folder of the autoencoder; its decoder is used. None keeps the one that the network was trained with.
        out: folder to write; a model card that is already there stays.
        others: models whose network and CLIP are averaged with these, see `average`.
        **sampling: `guidance_scale`, `refine_strength` and `num_inference_steps` that were found to suit the network, saved
            with it; what is missing or None stays as the network's folder says.

    Raises:
        ValueError: if the autoencoder's encoder is not the one that the network was trained with, the others do not fit, the
            sampling is none, or a weight is too large for the precision.
        FileExistsError: if the folder holds something else than a model.
    """
    files = list(out.glob("*"))
    kept = [file for file in files if file.suffix in (".md", ".png")]
    if out.is_file() or (len(files) > len(kept) and not (out / "model_index.json").exists()):
        raise FileExistsError(f"{out} is no model folder that could be replaced; name a new one")
    pipeline = checkpoints.load(network / "model")
    chosen = {name: value for name, value in sampling.items() if value is not None}
    pipeline.check_inputs(**chosen)
    if autoencoder is not None:
        _take_decoder(pipeline, network, autoencoder)
    average(pipeline, others)
    pipeline.register_to_config(**chosen)
    with atomic_folder(out, replace=True) as folder:
        for part in (pipeline.unet, pipeline.vae, pipeline.encoder):
            # diffusers' own `to` warns of modules to keep in float32: there are none
            for name, parameter in torch.nn.Module.half(part).named_parameters():
                check_finite(name, parameter)
        # files that a repository takes without large-file storage
        pipeline.save_pretrained(folder, safe_serialization=True, max_shard_size="15MB")
        for file in kept:
            shutil.copy(file, folder)
    return out


def _take_decoder(pipeline: ImageDreamPipeline, network: Path, autoencoder: Path) -> None:
    vae = checkpoints.load_part(autoencoder / "model", "vae")[0]
    if different := _other_latents(vae, pipeline.vae):
        raise ValueError(
            f"{autoencoder} has another encoder than {network} was trained with: {different[:3]}"
        )
    vae.register_to_config(scaling_factor=pipeline.vae.config.scaling_factor)
    pipeline.register_modules(vae=vae)


def _other_latents(vae: AutoencoderKL, known: AutoencoderKL) -> list[str]:
    """What makes an autoencoder's latents others than those that a network knows, half precision's rounding aside."""
    ours, theirs = (
        {
            key: tensor
            for key, tensor in one.state_dict().items()
            if key.startswith(("encoder.", "quant_conv."))
        }
        for one in (vae, known)
    )
    different = [
        *(ours.keys() ^ theirs.keys()),
        *(key for key in ours.keys() & theirs.keys() if not _close(ours[key], theirs[key])),
    ]
    factors = [one.config.scaling_factor for one in (vae, known)]
    return sorted(different) + ([] if math.isclose(*factors, rel_tol=1e-3) else ["scaling_factor"])


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-6)


@torch.no_grad()
def average(pipeline: ImageDreamPipeline, others: Sequence[str | Path]) -> None:
    """Give a model's network and CLIP the mean of its weights and other models'.

    For weights that were trained from one another, whose mean tends to keep most of what each of them knows (model soups,
    arXiv 2203.05482). What the others were trained on is added to the network's record.

    Args:
        pipeline: changed in place.
        others: anything that `checkpoints.load` knows.

    Raises:
        ValueError: a part of another has other tensors, or its network means something else by them.
    """
    models = [checkpoints.load(other) for other in others]
    for other, model in zip(others, models, strict=True):
        own, theirs = _meaning(pipeline), _meaning(model)
        if different := [name for name in own if own[name] != theirs[name]]:
            name = different[0]
            raise ValueError(
                f"{other} has {name} {theirs[name]}, which cannot be averaged with {name} {own[name]}"
            )
        if different := _other_latents(model.vae, pipeline.vae):
            raise ValueError(
                f"{other} has an autoencoder with another encoder, its network cannot be averaged: {different[:3]}"
            )
    for name in ("unet", "encoder"):
        own, *theirs = (getattr(model, name).state_dict() for model in (pipeline, *models))
        for other, state in zip(others, theirs, strict=True):
            problem = differences(*({key: tuple(t.shape) for key, t in s.items()} for s in (own, state)))
            if problem:
                raise ValueError(f"{other} has another {name}, which cannot be averaged: {problem}")
        for key, tensor in own.items():
            if tensor.is_floating_point():
                tensor.copy_(torch.stack([tensor.float(), *(state[key].float() for state in theirs)]).mean(0))
    record = [entry for model in (pipeline, *models) for entry in model.unet.config.get("trained_on", ())]
    once = [entry for number, entry in enumerate(record) if entry not in record[:number]]
    pipeline.unet.register_to_config(trained_on=once)


def _meaning(pipeline: ImageDreamPipeline) -> dict[str, Any]:
    """What the same tensors may have been trained to mean by inputs and output."""
    network, schedule = pipeline.unet.config, pipeline.scheduler.config
    names = ("prediction_type", "num_train_timesteps", "beta_schedule", "beta_start", "beta_end")
    return {
        **{name: network[name] for name in ("controllers", "cameras", "no_image")},
        **{name: schedule.get(name) for name in names},
    }


def read_stats(run: Path) -> list[dict[str, Any]]:
    """What a training run noted, an object a line.

    Raises:
        ValueError: it is no run folder of `train`, or a line is no object with a step.
    """
    path = run / "stats.jsonl"
    if not path.is_file():
        raise ValueError(f"{run} is no run folder of `train`: it has no stats.jsonl")
    lines = []
    for number, text in enumerate(path.read_bytes().splitlines(), 1):
        line = parse_object(text, f"{path}: line {number}")
        if (
            not all(type(line.get(name, 0.0)) in (int, float) for name in ("step", *_LOSSES))
            or "step" not in line
        ):
            raise ValueError(f"{path}: line {number} must have numbers for step and losses")
        lines.append(line)
    return lines


def plot_curves(runs: list[Path], out: Path) -> Path:
    """The loss curves of training runs, side by side in one picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(runs), 3), layout="constrained")
    for axis, run in zip(figure.subplots(1, len(runs), squeeze=False)[0], runs, strict=True):
        lines = read_stats(run)
        for name, style in zip(_LOSSES, ({"alpha": 0.4}, {"marker": "o"}), strict=True):
            points = [(line["step"], line[name]) for line in lines if name in line]
            if points:
                axis.plot(*zip(*points, strict=True), label=name.split("/")[0], **style)
        axis.locator_params(axis="x", nbins=5)  # more numbers of five digits would touch
        axis.set(title=run.name, xlabel="step", ylabel="loss", yscale="log")
        axis.legend()
    with atomic_path(out) as temporary:
        figure.savefig(temporary, dpi=110)
    return out
