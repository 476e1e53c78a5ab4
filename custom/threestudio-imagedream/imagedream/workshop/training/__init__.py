"""Training of the diffusion model and of the parts it stands on: `python -m imagedream train --config F`."""

from pathlib import Path


def train(path: str | Path, overrides: list[str] | None = None) -> Path:
    """See `imagedream.workshop.training.run.train`."""
    from imagedream.workshop.training.run import train as run

    return run(path, overrides)
