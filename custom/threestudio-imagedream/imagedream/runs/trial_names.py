"""What the folder of a trial is called; imports no torch, so that mistakes show at once."""

import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from imagedream.runs.files import with_digest
from imagedream.runs.settings import flatten, write_override

logger = logging.getLogger(__name__)

_MOST_BYTES = 200
"""Of a tag: of the 255 that a folder's name may have, two timestamps take 32 and a lock's name 6."""


def short_tag(cfg: Mapping[str, Any]) -> list[str]:
    """An override for a tag, such as the name of a picture, that is too long for a folder's name."""
    tag = str(cfg.get("tag", ""))
    parts = [
        part if len(os.fsencode(part)) <= _MOST_BYTES else with_digest(part, part, _MOST_BYTES)
        for part in tag.split("/")
    ]
    return [] if "/".join(parts) == tag else [write_override("tag", "/".join(parts))]


def own_overrides(config: Path, given: Collection[str]) -> list[str]:
    """Overrides by which the `configs/parsed.yaml` of a trial is about the folder it lies in, wherever that is by now.

    Pictures that are not where they were are replaced by what `save/` keeps of them, which is said.

    Args:
        config: any config; of others than these nothing is changed.
        given: keys of overrides that are given.
    """
    folders = config.resolve().parents
    if config.name != "parsed.yaml" or config.resolve().parent.name != "configs" or len(folders) < 4:
        return []
    _, trial, experiment, root = folders[:4]
    content = OmegaConf.to_container(OmegaConf.load(config))
    changes = {}
    if not {"exp_root_dir", "name", "tag", "timestamp", "use_timestamp"} & set(given):
        changes = {"exp_root_dir": str(root), "name": experiment.name, "tag": trial.name, "timestamp": ""}
    processor = (content.get("system") or {}).get("prompt_processor") or {}
    sides = [processor.get(f"{side}_path") for side in ("front", "left", "back", "right")]
    named = [processor.get("image_path"), *processor.get("image_paths", ()), *sides]
    pictures = [picture for picture in named if picture]
    saved = {
        picture: str(trial / "save" / ("prompt.png" if number == 1 else f"prompt-{number}.png"))
        for number, picture in enumerate(pictures, 1)
        if not Path(picture).exists()
    }
    for key, value in flatten(content).items():
        texts = value if isinstance(value, list) else [value]
        if any(isinstance(text, str) and text in saved for text in texts):
            kept = [saved.get(text, text) for text in texts]
            changes[key] = kept if isinstance(value, list) else kept[0]
    if saved and processor.get("mask_path"):
        changes["system.prompt_processor.mask_path"] = None
    for picture, kept in saved.items():
        logger.warning("%s is not there any more; taking %s, which was made of it", picture, kept)
    resume = content.get("resume")
    if resume and not Path(resume).exists() and (trial / "ckpts" / Path(resume).name).exists():
        changes["resume"] = str(trial / "ckpts" / Path(resume).name)
    return [write_override(key, value) for key, value in changes.items() if key not in given]
