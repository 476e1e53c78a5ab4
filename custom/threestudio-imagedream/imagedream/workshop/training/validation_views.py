"""Pictures of what the network being trained makes of objects that it should know or should guess."""

from pathlib import Path

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from imagedream.metrics import image_scores
from imagedream.pictures import contact_sheet, over_white
from imagedream.pipeline import ImageDreamPipeline
from imagedream.runs.files import atomic_path
from imagedream.runs.seeds import step_generator
from imagedream.workshop.evaluation.tables import mean_scores
from imagedream.workshop.training.diffusion import view_azimuths
from imagedream.workshop.training.run_logging import Statistics


class ValidationViews(pl.Callback):
    """Four views of a few validation objects beside the true ones, before the first step and at each validation.

    `step-N.png` shows a row an object: the prompt, the true views, the sampled ones; `stats.jsonl` gets
    `validation/psnr_db`, `validation/ssim` and `validation/iou`, means over objects and views on white. Objects,
    prompts and noise are the same every time, and weights are the averaged ones.

    Args:
        folder: for the pictures.
        statistics: where the scores go.
        objects: how many, the first of the validation objects.
        steps: of the sampler.
    """

    def __init__(self, folder: Path, statistics: Statistics, objects: int, steps: int) -> None:
        self.folder, self.statistics, self.objects, self.steps = folder, statistics, objects, steps

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What there is before anything is learned."""
        if trainer.global_step == 0:
            self.show(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What has been learned; the average is in its place while Lightning validates."""
        self.show(trainer, pl_module)

    def show(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sample, score, draw."""
        source = trainer.datamodule.validation
        batch = source.batch(torch.arange(min(self.objects, len(source))), step_generator(0, 0))
        was_training = pl_module.training
        pl_module.eval()
        with torch.no_grad(), trainer.precision_plugin.val_step_context():
            sampled = sample(pl_module.pipeline, batch, self.steps)
        pl_module.train(was_training)
        true = over_white(batch["targets"])
        scores = mean_scores([image_scores(ours, theirs) for ours, theirs in zip(sampled, true, strict=True)])
        scores = {f"validation/{name}": value for name, value in scores.items()}
        self.statistics.write(trainer, scores)
        if trainer.is_global_zero:
            picture, step = draw(batch, sampled), trainer.global_step
            with atomic_path(self.folder / f"step-{step:08d}.png") as temporary:
                picture.save(temporary)
            if trainer.logger is not None:
                trainer.logger.log_metrics(scores, step)
                trainer.logger.experiment.add_image("validation", pil_to_tensor(picture), step)


def sample(pipeline: ImageDreamPipeline, batch: dict, steps: int) -> Float[Tensor, "object view 3 h w"]:
    """Four views of each object of a batch from its own cameras, with noise of its number."""
    bar = dict(getattr(pipeline, "_progress_bar_config", {}))
    pipeline.set_progress_bar_config(disable=True)
    azimuths = view_azimuths(batch, pipeline.unet.config.cameras)
    views = [
        pipeline(
            batch["prompts"][number] if pipeline.unet.reads_images else None,
            batch["captions"][number],
            num_inference_steps=steps,
            elevation_deg=float(batch["elevations_deg"][number]),
            azimuth_deg=float(azimuths[number, 0]),
            generator=torch.Generator().manual_seed(number),
            output_type="pt",
        ).images.cpu()
        for number in range(len(batch["prompts"]))
    ]
    pipeline.set_progress_bar_config(**bar)
    return torch.stack(views)


def draw(batch: dict, sampled: Float[Tensor, "object view 3 h w"]) -> Image.Image:
    """A row for each object. Views go by number: the first may be from anywhere, the others are 90° further each."""
    prompts = over_white(batch["prompts"])
    true = over_white(batch["targets"])
    angles = [f"{90 * view}°" for view in range(sampled.shape[1])]
    columns = ["prompt", *(f"true +{angle}" for angle in angles), *(f"+{angle}" for angle in angles)]
    rows = [[prompts[row], *true[row], *sampled[row]] for row in range(len(sampled))]
    return contact_sheet(columns, rows)
