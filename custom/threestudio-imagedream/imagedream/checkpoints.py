"""From a source of weights to a ready pipeline, strictly."""

import json
import logging
from pathlib import Path

import torch

TOYBOX = Path(__file__).parent / "weights" / "toybox"
"""The small model that ships with the code; its name in configs is `toybox`."""

COMPONENTS = ("unet", "vae", "encoder", "scheduler")
PUBLISHED = {
    "sd-v2.1-base-4view-ipmv.pt": "pixel model",
    "sd-v2.1-base-4view-ipmv-local.pt": "local model",
}
PUBLISHED_AT = "Hugging Face repository Peng-Wang/ImageDream"
PUBLISHED_SIZE = "8.05 GB"

logger = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """Weights that are not there or are not what they should be; the message says what to do."""


def resolve(source: str | Path) -> Path:
    """The folder that a source names: `toybox`, or a path as it is."""
    return TOYBOX if str(source) == "toybox" else Path(source).expanduser()


def check(source: str | Path) -> None:
    """Raise CheckpointError, without loading anything, unless `source` is a folder that `load` can read."""
    path = resolve(source)
    if not path.exists():
        known = f"{path.name} ({PUBLISHED.get(path.name, 'published weights')}, {PUBLISHED_SIZE})"
        hint = (
            f"{known} is published at {PUBLISHED_AT}; download it and point to your copy with "
            "system.guidance.weights=/path/to/" + path.name
            if path.suffix in (".pt", ".ckpt")
            else f"allowed are 'toybox' (the small model that ships) and a folder written by save_pretrained; the "
            f"published models ({', '.join(PUBLISHED)}, {PUBLISHED_SIZE} each) are at {PUBLISHED_AT}"
        )
        raise CheckpointError(f"no weights at {path}: {hint}")
    if path.is_file():
        raise CheckpointError(
            f"{path} is a file; this version reads folders written by save_pretrained "
            f"(model_index.json and one folder each for {', '.join(COMPONENTS)})"
        )
    missing = [name for name in ("model_index.json", *COMPONENTS) if not (path / name).exists()]
    if missing:
        raise CheckpointError(f"{path} is not an ImageDream model folder: {', '.join(missing)} missing")
    try:
        json.loads((path / "model_index.json").read_text())
    except ValueError as error:
        raise CheckpointError(f"{path / 'model_index.json'} is not JSON: {error}") from error


def load(source: str | Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"):
    """A ready `ImageDreamPipeline`.

    Args:
        source: `toybox` or a folder written by `save_pretrained`.
        dtype: of all weights.
        device: where they go.

    Raises:
        CheckpointError: if there is nothing usable at `source`, or keys or shapes do not fit.
    """
    # heavy imports wait until the cheap checks have passed
    from diffusers import AutoencoderKL

    from imagedream.encoders import ImageTextEncoder
    from imagedream.model import MultiViewUNet
    from imagedream.pipeline import ImageDreamPipeline

    check(source)
    path = resolve(source)
    pipeline = ImageDreamPipeline(
        unet=load_component(MultiViewUNet, path / "unet", dtype),
        vae=load_component(AutoencoderKL, path / "vae", dtype),
        encoder=load_component(ImageTextEncoder, path / "encoder", dtype),
        scheduler=load_scheduler(path / "scheduler"),
    )
    return pipeline.to(device)


def load_component(model_class, folder: Path, dtype: torch.dtype):
    """A model from its `config.json` and `diffusion_pytorch_model.safetensors`, every key and shape accounted for.

    Raises:
        CheckpointError: if keys are missing or unexpected, or shapes differ.
    """
    from safetensors.torch import load_file

    weights = folder / "diffusion_pytorch_model.safetensors"
    if not weights.exists():
        raise CheckpointError(f"{weights} is missing")
    model = model_class.from_config(model_class.load_config(folder))
    state = load_file(weights)
    expected = model.state_dict()
    differences = {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys()),
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
            for key in sorted(expected.keys() & state.keys())
            if state[key].shape != expected[key].shape
        ],
    }
    if any(differences.values()):
        lines = [f"{len(keys)} {what}: {', '.join(keys[:4])}" for what, keys in differences.items() if keys]
        raise CheckpointError(f"{weights} does not fit {model_class.__name__}: " + "; ".join(lines))
    model.load_state_dict(state)
    # diffusers' own `to` warns about precision even for models with nothing to keep in float32
    return torch.nn.Module.to(model, dtype).eval().requires_grad_(False)


def load_scheduler(folder: Path):
    """The scheduler whose class `scheduler_config.json` names."""
    import diffusers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    config = json.loads((folder / "scheduler_config.json").read_text())
    scheduler_class = getattr(diffusers, config["_class_name"], None)
    if not (isinstance(scheduler_class, type) and issubclass(scheduler_class, SchedulerMixin)):
        raise CheckpointError(f"{folder}: {config['_class_name']!r} is not a scheduler of diffusers")
    return scheduler_class.from_config(config)
