"""A training recipe at a size that tests can afford, and ways to run it."""

import io
import json
import os
import sys
import tarfile
from functools import partial
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image

from imagedream.cli import main
from imagedream.workshop.rendering.captioned_files import find_items
from imagedream.workshop.rendering.object_views import RenderConfig
from imagedream.workshop.rendering.shards import render_shards
from imagedream.workshop.workers import run_processes
from tests.tiny import tiny_encoder, tiny_scheduler, tiny_unet, tiny_vae

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "configs" / "train"
NETWORK = "model/unet/diffusion_pytorch_model.safetensors"
"""Weights of a trained network in its run folder."""
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT / "custom" / "threestudio-imagedream"),
    "OMP_NUM_THREADS": "1",
}

LIGHTNING_WARNINGS = [
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch.utils._pytree"),
]
"""Lightning speaks of its own internals and of choices made on purpose here."""


def settings(component):
    return {name: value for name, value in component.config.items() if not name.startswith("_")}


def arguments(recipe, out, *overrides):
    return ["train", "--config", str(recipe / "tiny.yaml"), f"out={out}", *overrides]


def run(recipe, out, *overrides):
    """The exit code of a training in this process."""
    return main(arguments(recipe, out, "validation_views=0", *overrides))


def command(recipe, out, *overrides):
    """A training in a process of its own."""
    return [sys.executable, "-m", "imagedream", *arguments(recipe, out, *overrides)]


def lines(out):
    return [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def write_shard(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    """Shards of three toys, a shard of pictures, a tiny model, and `tiny.yaml`."""
    root = tmp_path_factory.mktemp("recipe")
    toys, here = find_items("toybox:3"), partial(run_processes, jobs=0)
    render_shards(toys, root / "shards", RenderConfig(size=16, views=8, prompts=1), here)
    (root / "pictures").mkdir()
    members = {}
    for name in ("red", "blue", "green"):
        members[f"{name}.png"] = encoded(Image.new("RGB", (20, 16), name))
        members[f"{name}.txt"] = f"all {name}".encode()
    write_shard(root / "pictures" / "colours.tar", members)
    tiny_vae().save_pretrained(root / "vae")
    tiny_encoder().save_pretrained(root / "encoder")
    config = {
        "part": "diffusion",
        "out": str(root / "out"),
        "autoencoder": str(root / "vae"),
        "encoder": str(root / "encoder"),
        "model": settings(tiny_unet()),
        "scheduler": settings(tiny_scheduler()),
        "data": {
            "rendered": {"folders": [str(root / "shards")], "image_size": 16},
            "cache": str(root / "cache"),
            "validation_objects": 1,
            "batch_size": 2,
            "workers": 1,
        },
        "optimizer": {"final_fraction": 1.0, "warmup_steps": 1},
        "steps": 2,
        "validate_every": 2,
        "log_every": 1,
        "validation_views": 1,
        "validation_view_steps": 1,
    }
    OmegaConf.save(config, root / "tiny.yaml")
    return root
