"""`evaluate`: how good a model is."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from imagedream.cli.verb import Verb, choose_device, say


@dataclass(frozen=True)
class Evaluate(Verb):
    """Metrics of a model on toys it has never seen, beside trivial answers, as a table."""

    what: tyro.conf.Positional[Literal["views"]] = tyro.MISSING
    """`views`: the four views against the true ones."""
    weights: str = "toybox"
    """`toybox` (the small model that ships) or a model folder."""
    n: int = 16
    """How many toys."""
    seed: int = 0
    """Decides toys, cameras and noise."""
    kinds: tuple[str, ...] = ()
    """Kinds of toys; none for those the small model is trained on."""
    steps: int = 50
    """Sampler steps."""
    guidance_scale: float | None = None
    """Strength of classifier-free guidance; 1 for none; by default what suits the model."""
    captions: bool = True
    """Tell the model each toy's caption."""
    json: bool = False
    """Print JSON with every toy's numbers instead of the table."""
    out: Path | None = None
    """Folder for the table, the numbers and a contact sheet."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, ..."""

    def run(self) -> None:  # noqa: D102
        for name, value in (("--n", self.n), ("--steps", self.steps)):
            if value < 1:
                raise ValueError(f"{name} is {value}, must be at least 1")
        if self.guidance_scale is not None and self.guidance_scale < 0:
            raise ValueError(
                f"--guidance-scale is {self.guidance_scale}, must be at least 0 (1 means no guidance)"
            )
        from imagedream import checkpoints

        checkpoints.check(self.weights)
        device = choose_device(self.device)
        from imagedream.evaluation.views import evaluate_views

        pipeline = checkpoints.load(self.weights, device=device)
        pipeline.set_progress_bar_config(disable=True)
        evaluation = evaluate_views(
            pipeline,
            self.n,
            seed=self.seed,
            kinds=self.kinds or None,
            guidance_scale=self.guidance_scale,
            steps=self.steps,
            captions=self.captions,
        )
        if self.out is not None:
            evaluation.save(self.out)
        say(json.dumps(evaluation.to_dict(), indent=1) if self.json else evaluation.table())
