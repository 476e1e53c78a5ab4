"""Configs: values that cannot be, files that are changes of others, and the shipped recipes."""

import math
import re
from pathlib import Path

import pytest

from imagedream.workshop.training.train_config import (
    ConditioningConfig,
    DataConfig,
    OptimizerConfig,
    SampleConfig,
    TrainConfig,
    read_config,
)

CONFIGS = Path(__file__).parents[3] / "configs" / "train"


# that every number is held against its annotation: tests/extension/test_configs.py
@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (ConditioningConfig, {"white_background": 0.9, "grey_background": 0.2}, "their sum is 1.1"),
        (ConditioningConfig, {"timesteps": [[0.5, 0.0, 1.0], [0.4, 1.0, 1.0]]}, "the shares sum to 0.9"),
        (ConditioningConfig, {"timesteps": [[1.0, 0.5, 0.2]]}, "[1.0, 0.5, 0.2], must be [share, lowest"),
        (DataConfig, {"validation_objects": 0}, "data.validation_objects is 0, must be at least 1"),
        (OptimizerConfig, {"kind": "adam8bit"}, "kind is 'adam8bit', must be one of adamw, muon"),
        (OptimizerConfig, {"schedule": "step"}, "schedule is 'step', must be one of cosine, linear"),
        (OptimizerConfig, {"betas": (0.9, 1.0)}, "must be a list of 2 numbers of at least 0, below 1"),
        (SampleConfig, {"kinds": ["unicorn"]}, "unicorn"),
        (SampleConfig, {"prompt_light": "dim"}, "prompt_light is 'dim', must be one of random, fixed"),
        (TrainConfig, {"precision": "bf16"}, "precision is 'bf16', must be one of auto, 32-true, bf16-mixed"),
        (TrainConfig, {"seed": 10**22}, "seed is 10000000000000000000000"),
        (TrainConfig, {"scheduler": {"beta_start": math.nan}}, "scheduler.beta_start is nan, must be finite"),
        (TrainConfig, {"learn": [1, 2]}, "learn is [1, 2], must be all, controllers or a list of names"),
        (TrainConfig, {"learn": []}, "learn is []"),
    ],
)
def test_values_that_cannot_be(config, values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        config(**values)


@pytest.mark.parametrize(
    ("recipe", "override", "message"),
    [
        ("toybox-encoder", "stepz=3", "stepz.* known are part, out, .*steps"),
        ("toybox-encoder", "data.objectz=3", "objectz.* known are .*objects"),
        ("toybox-encoder", "data.sample.elevation_deg=[]", r"^data.sample.elevation_deg=\[\]: "),
        ("toybox-encoder", "lora.alpha=" + "9" * 400, "lora.alpha is 99999999999999999999... of 400 digits"),
        ("toybox-encoder", "steps=" + "9" * 5000, "steps is 99999999999999999999... of 5000 digits"),
        ("toybox-encoder", "steps=many", "steps"),
        ("toybox-diffusion", "model=[]", r"^model=\[\]: Cannot merge"),
        (
            "toybox-diffusion",
            "scheduler.num_train_timesteps=0",
            "num_train_timesteps is 0, must be a whole number",
        ),
        ("toybox-encoder", "part=music", "part is 'music', must be one of encoder, autoencoder"),
        ("lora-own-objects", "initial=x", "initial is 'x', but with lora.rank 16 all parts come from lora.w"),
        ("lora-own-objects", "learn=controllers", "learn is controllers, but with lora.rank 16"),
        ("lora-own-objects", "part=encoder", "lora.rank is 16, which is for part diffusion, not encoder"),
    ],
)
def test_overrides_that_cannot_be(recipe, override, message):
    with pytest.raises(ValueError, match=message):
        read_config(CONFIGS / f"{recipe}.yaml", [override])


def test_a_recipe_that_is_a_change_of_another(tmp_path):
    (tmp_path / "first.yaml").write_text("part: diffusion\nout: runs/first\nsteps: 7\nseed: 3\n")
    (tmp_path / "second.yaml").write_text(
        "base: first.yaml\nout: runs/second\noptimizer: {warmup_steps: 3}\n"
    )
    (tmp_path / "third.yaml").write_text("base: second.yaml\nsteps: 9\n")
    second, third = (read_config(tmp_path / f"{name}.yaml", ["seed=4"]) for name in ("second", "third"))
    assert (second.out, second.steps, second.seed) == ("runs/second", 7, 4)
    assert (third.out, third.steps, third.optimizer.warmup_steps) == ("runs/second", 9, 3)


def test_a_config_that_is_not_there():
    with pytest.raises(ValueError, match=r"no training config at nowhere\.yaml"):
        read_config("nowhere.yaml")
