"""Which side of an object is its front, by what picture and text towers say (paper §3.2)."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
import trimesh

from imagedream import cameras
from imagedream.encoders import ImageTextEncoder
from imagedream.image_prompt.prompt import composite
from imagedream.mesh.raycast import render

SIDES = ("the front view", "a side view", "the back view", "a side view")
"""What each of four views a quarter turn apart is called."""


@lru_cache(maxsize=1)
def load_encoder(folder: str) -> ImageTextEncoder:
    """Picture and text towers from a model's `encoder` folder.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the towers are not made to compare pictures with texts.
    """
    if not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(f"encoder is {folder}: no folder of picture and text towers (config.json)")
    encoder = ImageTextEncoder.from_pretrained(folder).eval()
    if not (encoder.reads_images and encoder.config.joint_embedding):
        raise ValueError(f"encoder is {folder}: its towers cannot compare pictures with texts")
    return encoder


@torch.no_grad()
def estimate_front(
    parts: Sequence[trimesh.Trimesh], caption: str, encoder: ImageTextEncoder, size: int = 224
) -> int:
    """The quarter turn at which the object's four sides fit their names best.

    The sum of similarities between the views and "the front view of …", "a side view of …", "the back view of …" is
    compared for the four ways of naming them. MVDream is said to choose by the front view alone; assets that were
    modelled facing an axis, which most were, need no finer steps.

    Args:
        parts: the object in the unit cube in world axes, up to a turn around +z.
        caption: what it is; may be empty.
        encoder: towers with a joint embedding.
        size: side of the views in pixels.

    Returns:
        0 to 3: the front faces azimuth 0, 90, 180 or 270 degrees.
    """
    fov = torch.full((4,), 40.0)
    poses = cameras.look_at_origin(
        torch.tensor(10.0), cameras.orthogonal_azimuths(), cameras.framing_distance(0.75, fov)
    )
    views = composite(render(parts, poses, fov, size).rgba, torch.ones(4, 3))
    pictures = encoder.encode_image(views).embedding
    texts = encoder.embed_text([f"{side} of {caption or 'an object'}" for side in SIDES])
    similarity = pictures @ texts.T  # (view, side)
    turns = [similarity.roll(-quarters, dims=0).diagonal().sum() for quarters in range(4)]
    return int(torch.stack(turns).argmax())
