"""Does the last noise level still show the picture?

    python benchmarks/terminal_noise.py [--weights toybox FOLDER ...] [--out benchmarks/results/terminal_noise]

A noise schedule that ends above zero signal (Lin et al., arXiv 2305.08891) lets the network learn to read the picture off what
it takes for noise; sampling then begins with noise that shows nothing, of which it reads nonsense. Latents with few pixels
and a strong first channel show more than Stable Diffusion's. Here the network says x₀ once from the last level of the true
views, and once from noise alone, of held-out toys: where both errors are equal, nothing leaks.
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "custom" / "threestudio-imagedream"))

import torch  # noqa: E402
import tyro  # noqa: E402

from imagedream import checkpoints  # noqa: E402
from imagedream.cameras import camera_condition, look_at_origin  # noqa: E402
from imagedream.model import predict_noise  # noqa: E402
from imagedream.pipeline import ImageDreamPipeline  # noqa: E402
from imagedream.workshop.evaluation.held_out_objects import held_out_cases  # noqa: E402
from imagedream.workshop.evaluation.tables import markdown_table, save_results  # noqa: E402


@dataclass(frozen=True)
class Settings:
    """What is run; the defaults are the numbers in benchmarks/results."""

    weights: tuple[str, ...] = ("toybox",)
    """Model folders, with canonical cameras."""
    n: int = 32
    """Held-out toys."""
    seed: int = 0
    out: Path | None = None
    """Write OUT.md and OUT.json."""


@torch.no_grad()
def errors(pipeline: ImageDreamPipeline, settings: Settings) -> dict[str, float]:
    """Mean squared errors of x₀ at the last level, as fractions of the variance of the latents."""
    scheduler = pipeline.scheduler
    last = scheduler.config.num_train_timesteps - 1
    signal = scheduler.alphas_cumprod[last]
    generator = torch.Generator().manual_seed(settings.seed)
    clean, answers = [], {"true": [], "noise": []}
    for case in held_out_cases(settings.n, settings.seed, prompt_size=pipeline.image_size):
        orbit = case.orbit
        latents = pipeline.encode_images(orbit.on_white(case.object.mesh, pipeline.image_size))[None]
        cameras = look_at_origin(
            torch.tensor(orbit.elevation_deg), torch.tensor(orbit.azimuths_deg), torch.tensor(1.0)
        )
        condition = pipeline.encode_condition(case.prompt, case.object.caption, torch.ones(3))
        noise = torch.randn(latents.shape, generator=generator)
        timestep = torch.tensor([last])
        for name, start in (("true", scheduler.add_noise(latents, noise, timestep)), ("noise", noise)):
            said = predict_noise(
                pipeline.unet, start, timestep, camera_condition(cameras)[None], *condition.inputs
            )
            if scheduler.config.prediction_type == "v_prediction":
                said = signal.sqrt() * start - (1 - signal).sqrt() * said
            elif scheduler.config.prediction_type == "epsilon":
                said = (start - (1 - signal).sqrt() * said) / signal.sqrt()
            answers[name].append(said)
        clean.append(latents)
    truth = torch.cat(clean)
    variance = truth.var((0, 1, 3, 4))
    error = {
        name: (torch.cat(said) - truth).square().mean((0, 1, 3, 4)) / variance
        for name, said in answers.items()
    }
    strongest = int(variance.argmax())
    return {
        "signal / noise": float(signal / (1 - signal)),
        **{
            f"{channels}, from {start}": float(error[name][chosen].mean())
            for channels, chosen in (("strongest channel", [strongest]), ("all channels", slice(None)))
            for name, start in (("true", "the true last level"), ("noise", "noise alone"))
        },
    }


def main(settings: Settings) -> None:
    """Measure and report."""
    rows = []
    for weights in settings.weights:
        name = weights if weights == "toybox" else "/".join(Path(weights).parts[-2:])
        rows.append({"weights": name, **errors(checkpoints.load(weights), settings)})
    text = "\n\n".join(
        [
            f"Error of x₀ over the variance of the latents, {settings.n} held-out toys from seed {settings.seed}; 1 is what the "
            "mean picture would have.",
            markdown_table(rows),
        ]
    )
    print(text)
    if settings.out is not None:
        told = {key: value for key, value in asdict(settings).items() if key not in ("out", "weights")}
        save_results(settings.out, f"# The last noise level\n\n{text}", {"settings": told, "rows": rows})


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
