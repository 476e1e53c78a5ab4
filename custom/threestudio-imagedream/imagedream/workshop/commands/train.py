"""`train` and `assemble`: from data to a model folder."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from imagedream.cli.verb import OutPath, Verb, say


@dataclass(frozen=True)
class Train(Verb):
    """Train the diffusion model or one of its parts; resumes where the run folder's checkpoint stopped."""

    config: Path = tyro.MISSING
    """YAML file, see configs/train/."""
    overrides: tyro.conf.Positional[tuple[str, ...]] = ()
    """`key=value`, `key.sub=value`: what to change in it."""
    dry_run: bool = False
    """Train nothing, read no weights: count parameters, operations and memory of a network's training, and say what is missing
    (exit code 1)."""
    tflops: float | None = None
    """For `--dry-run`: TFLOP/s that a device sustains; None is 40 % of an A100's 312."""

    def run(self) -> int | None:  # noqa: D102
        wrong = [override for override in self.overrides if "=" not in override]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is not of the form key=value")
        if not self.config.is_file():
            raise FileNotFoundError(f"--config is {self.config}, there is no such file")
        if self.tflops is not None and not (self.dry_run and self.tflops > 0):
            raise ValueError(f"--tflops is {self.tflops}, must be greater than 0 and is for --dry-run only")
        if self.dry_run:
            return self._plan()
        from pytorch_lightning.utilities.rank_zero import rank_zero_only

        from imagedream.workshop.training import train

        trained = train(self.config, list(self.overrides))
        rank_zero_only(say)(trained)
        return None

    def _plan(self) -> int:
        from imagedream.workshop.training.dry_run import DEFAULT_TFLOPS, plan
        from imagedream.workshop.training.train_config import read_config

        found = plan(read_config(self.config, list(self.overrides)))
        say(found.report(self.tflops or DEFAULT_TFLOPS))
        return 1 if found.missing else 0


@dataclass(frozen=True)
class Assemble(Verb):
    """Trained parts -> one model folder in half precision, with a picture of the loss curves."""

    out: OutPath = tyro.MISSING
    """Folder to write."""
    network: Path = Path("outputs/train/toybox-diffusion")
    """Run folder of the multi-view network."""
    autoencoder: Path | None = None
    """Run folder of the autoencoder, whose decoder may have been trained further since the network began; otherwise what the
    network was trained with."""
    encoder: Path | None = None
    """Run folder of CLIP, for its curve."""
    guidance_scale: float | None = None
    """Strength of guidance that was found to suit the network; `views` and `evaluate` use this and the next two unless told
    otherwise."""
    refine_strength: float | None = None
    """Below 1 the views are predicted in one step and refined in that share of the steps."""
    num_inference_steps: int | None = None
    """Steps of the sampler."""
    average: tuple[str, ...] = ()
    """Models (folders, as for `--weights`) whose network and CLIP are averaged with these: the models that this training started from."""

    def run(self) -> None:  # noqa: D102
        runs = [run for run in (self.encoder, self.autoencoder, self.network) if run is not None]
        from imagedream.workshop.training.assemble import assemble, plot_curves, read_stats

        for run in runs:
            read_stats(run)
        assemble(
            self.network,
            self.autoencoder,
            self.out,
            others=self.average,
            guidance_scale=self.guidance_scale,
            refine_strength=self.refine_strength,
            num_inference_steps=self.num_inference_steps,
        )
        plot_curves(runs, self.out / "curves.png")
        say(self.out)
