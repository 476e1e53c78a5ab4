"""A training recipe at a size that tests can afford."""

import pytest
from omegaconf import OmegaConf
from PIL import Image

from imagedream.cli import main
from tests.tiny import tiny_encoder, tiny_scheduler, tiny_unet, tiny_vae


def settings(component):
    return {name: value for name, value in component.config.items() if not name.startswith("_")}


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    """Shards of three toys, a folder of pictures, a tiny model, and `tiny.yaml`."""
    root = tmp_path_factory.mktemp("recipe")
    options = ["--size", "16", "--views", "8", "--jobs", "1", "--prompts", "1"]
    assert main(["render", "toybox:3", "--out", str(root / "shards"), *options]) == 0
    (root / "pictures").mkdir()
    for name in ("red", "blue", "green"):
        Image.new("RGB", (20, 16), name).save(root / "pictures" / f"{name}.png")
        (root / "pictures" / f"{name}.txt").write_text(f"all {name}")
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
