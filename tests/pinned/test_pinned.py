"""What no rearranging of the code may change: toys, shipped weights, rendered data, the four views, the first 3D steps.

The numbers in `pinned.json` and `pinned.safetensors` were written by `python tests/pinned/test_pinned.py` before the
code was rearranged. Write them again only where a change of results is meant, and say so.
"""

import csv
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
WEIGHTS = PROJECT / "custom" / "threestudio-imagedream" / "imagedream" / "weights" / "toybox"
STEPS = 20


def toy_digests() -> list[str]:
    """Kind by kind, split by split: captions, faces and colours to the bit, corners to a hundred thousandth."""
    from imagedream.toybox import KINDS, make_toy

    digests = []
    splits = (("train", "any"), ("heldout", "any"), ("heldout", "heldout"))
    for kind, (split, combinations), seed in product(KINDS, splits, range(4)):
        toy = make_toy(seed, kind, split, combinations)
        digest = hashlib.sha256()
        digest.update(toy.caption.encode())
        digest.update(json.dumps(toy.attributes, sort_keys=True).encode())
        digest.update(np.asarray(toy.mesh.faces, np.int64).tobytes())
        digest.update(np.asarray(toy.mesh.visual.face_colors, np.uint8).tobytes())
        # the offset keeps round numbers away from where rounding changes
        digest.update(np.floor(np.asarray(toy.mesh.vertices) * 1e5 + 0.3217).astype(np.int64).tobytes())
        digests.append(digest.hexdigest()[:16])
    return digests


def weight_digests() -> dict[str, str]:
    return {
        str(path.relative_to(WEIGHTS)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(WEIGHTS.rglob("*.safetensors"))
    }


def rendered_shard(folder: Path) -> tuple[dict[str, str], torch.Tensor]:
    """Text files of a shard of two toys as they are, and its pictures."""
    from imagedream.workshop.rendering.captioned_files import find_items
    from imagedream.workshop.rendering.object_views import RenderConfig
    from imagedream.workshop.rendering.shards import render_shards
    from imagedream.workshop.workers import run_processes

    config = RenderConfig(size=16, views=4, rings=1, prompts=1, seed=0)
    render_shards(find_items("toybox:2"), folder, config, partial(run_processes, jobs=0))
    texts, pictures = {}, []
    with tarfile.open(folder / "shard-000000.tar") as tar:
        for member in sorted(tar, key=lambda one: one.name):
            data = tar.extractfile(member).read()
            if member.name.endswith(".png"):
                pictures.append(np.array(Image.open(io.BytesIO(data)).convert("RGBA")))
            else:
                texts[member.name] = data.decode()
    return texts, torch.from_numpy(np.concatenate([picture.ravel() for picture in pictures]))


def four_views() -> torch.Tensor:
    from imagedream import checkpoints

    pipeline = checkpoints.load("toybox")
    pipeline.set_progress_bar_config(disable=True)
    output = pipeline(
        str(PROJECT / "launch_examples" / "robot.png"),
        "a gray robot with orange arms",
        num_inference_steps=8,
        guidance_scale=2.0,
        refine_strength=1.0,
        elevation_deg=10.0,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    )
    return (output.images * 255).round().byte().contiguous()


def first_losses(folder: Path) -> list[float]:
    """The distillation loss of the first steps of `make demo`."""
    command = [sys.executable, "launch.py", "--config", "imagedream-toybox.yaml", "--train"]
    command += [
        f"trainer.max_steps={STEPS}",
        "trainer.log_every_n_steps=1",
        "trainer.val_check_interval=1000",
        "system.views.steps=1",
        "system.prompt_camera.enabled=false",
        "system.report=false",
        "system.exporter.resolution=16",
        "system.exporter.texture_size=64",
        "system.exporter.target_faces=200",
        "data.n_test_views=1",
        "system.prompt_processor.image_path=launch_examples/robot.png",
        f"exp_root_dir={folder}",
        "name=pinned",
        "tag=robot",
        "use_timestamp=false",
    ]
    subprocess.run(command, check=True, capture_output=True, cwd=PROJECT)
    (path,) = (folder / "pinned" / "robot").rglob("metrics.csv")
    with path.open() as file:
        return [float(row["train/loss_sds"]) for row in csv.DictReader(file) if row.get("train/loss_sds")]


@pytest.fixture(scope="module")
def pinned():
    return json.loads((HERE / "pinned.json").read_text())


@pytest.fixture(scope="module")
def pictures():
    return load_file(HERE / "pinned.safetensors")


def difference(found: torch.Tensor, pinned: torch.Tensor) -> float:
    """Mean over pixels, in 8-bit steps."""
    assert found.shape == pinned.shape
    return (found.float() - pinned.float()).abs().mean().item()


def test_toys(pinned):
    assert toy_digests() == pinned["toys"]


def test_shipped_weights(pinned):
    assert weight_digests() == pinned["weights"]


def test_rendered_shard(pinned, pictures, tmp_path):
    texts, found = rendered_shard(tmp_path / "shards")
    assert texts == pinned["shard"]
    assert difference(found, pictures["shard"]) < 0.05


def test_four_views(pictures):
    assert difference(four_views(), pictures["views"]) < 0.05


@pytest.mark.slow
def test_first_distillation_steps(pinned, tmp_path):
    losses = first_losses(tmp_path)
    assert losses[:5] == pytest.approx(pinned["losses"][:5], rel=1e-3)
    assert losses == pytest.approx(pinned["losses"], rel=0.02)


def write(folder: Path) -> None:
    texts, shard = rendered_shard(folder / "shards")
    found = {
        "toys": toy_digests(),
        "weights": weight_digests(),
        "shard": texts,
        "losses": first_losses(folder),
    }
    (HERE / "pinned.json").write_text(json.dumps(found, indent=1) + "\n")
    save_file({"shard": shard, "views": four_views()}, HERE / "pinned.safetensors")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
