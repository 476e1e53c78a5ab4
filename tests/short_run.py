"""A few steps of a threestudio system, quietly."""

import pytorch_lightning as pl


def short_trainer(folder, steps: int, **options) -> pl.Trainer:
    """Lightning's trainer as the launcher sets it up, without what is shown or written besides."""
    quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0)
    return pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        inference_mode=False,
        default_root_dir=folder,
        **{**quiet, **options},
    )
