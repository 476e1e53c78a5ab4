"""A batch from beginning to end: what is done is skipped, what failed is tried again, the rest is run."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from imagedream.runs.locks import locked
from imagedream.workshop.batch.launching import Launch
from imagedream.workshop.batch.pages import write_pages
from imagedream.workshop.launched_run import State, read_run
from imagedream.workshop.rendering.captioned_files import Item
from imagedream.workshop.workers import Runner

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """How a batch ended."""

    done: int
    """Pictures that have their mesh now."""
    skipped: int
    """Those of them that had it before."""
    failed: dict[str, str]
    """Why not, by key."""


def run_batch(items: Sequence[Item], launch: Launch, run: Runner) -> Summary:
    """Make a mesh of every picture; the pages are written also when it is interrupted.

    Args:
        items: the pictures.
        launch: what is done with each.
        run: where.

    Raises:
        ValueError: another batch is at work in the same folder.
        OSError: the folder cannot be written to.
    """
    with locked(launch.out, "batch"):
        runs = {item.key: launch.find(item) for item in items}
        todo = [item for item in items if runs[item.key].state != "done"]
        for item in todo:
            runs[item.key].note("queued")
        if len(todo) < len(items):
            logger.info(
                "%s: %d of %d pictures are done already", launch.out, len(items) - len(todo), len(items)
            )
        failed = {}
        try:
            with tqdm(total=len(todo), desc="batch", unit="picture") as bar:
                for outcome in run(launch, todo):
                    if outcome.error is not None:
                        failed[outcome.task.key] = outcome.error
                        _settle(launch, outcome.task, "failed", outcome.error)
                        with tqdm.external_write_mode():
                            logger.warning("%s failed: %s", outcome.task.source, outcome.error)
                    bar.set_postfix_str(f"{len(failed)} failed" if failed else "")
                    bar.update()
        finally:
            for item in todo:
                _settle(launch, item, "queued", "interrupted")
            write_pages(items, launch)
    return Summary(len(items) - len(failed), len(items) - len(todo), failed)


def _settle(launch: Launch, item: Item, state: State, error: str) -> None:
    """Say what became of a run whose worker could not say so itself."""
    run = read_run(launch.out / item.key)
    if run is not None and run.state == "running":
        run.note(state, error=error)
