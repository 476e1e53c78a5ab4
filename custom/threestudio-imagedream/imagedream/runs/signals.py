"""Ctrl-C, SIGTERM and the signals of a queue: the first one ends a run in good order, the second one at once."""

import logging
import signal
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from imagedream.runs.user_errors import Quit

logger = logging.getLogger(__name__)


class StopOnSignal(Callback):
    """The first signal ends training after the current batch, or a test at once; a second one ends the program.

    All processes of a run stop after the same batch. What was trained is saved by `Checkpoints`. After SIGTERM there is
    no test: whoever sends it does not wait long. While nothing has begun yet, the first signal ends the program.

    Args:
        how_to_resume: what to say to the user.
        more: signals to listen to besides Ctrl-C and SIGTERM.
        quits: signals whose second coming ends the program.
    """

    def __init__(
        self,
        how_to_resume: str,
        more: Sequence[signal.Signals] = (),
        quits: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
    ) -> None:
        self.how_to_resume, self.quits = how_to_resume, quits
        self.signal: signal.Signals | None = None
        """The first one."""
        self._numbers = (signal.SIGINT, signal.SIGTERM, *more)
        self._phase = self._phase_of_signal = ""
        self._previous: dict[int, Any] = {}

    @property
    def ends_test(self) -> bool:
        """Whether there is to be no test, or no more of it."""
        return self._phase_of_signal == "test" or self.signal == signal.SIGTERM

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remember what signals did before."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.getsignal(number) for number in self._numbers}
            self._listen("")

    def _listen(self, phase: str) -> None:
        self._phase = phase
        for number in self._previous:
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self._phase or (self.signal is not None and number in self.quits):
            raise Quit
        if self.signal is None:
            self.signal, self._phase_of_signal = signal.Signals(number), self._phase
            logger.warning("%s: %s; once more to quit", self.signal.name, _WHAT_FOLLOWS[self._phase])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take signals over from Lightning, which has just put a handler of its own there."""
        self._listen("fit")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Likewise."""
        self._listen("test")

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Likewise."""
        self._listen("predict")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """End training if any process was asked to."""
        if any_process(trainer, self.signal is not None)[0]:
            self.signal = self.signal or signal.SIGTERM
            trainer.should_stop = True
            trainer.limit_val_batches = 0  # Lightning would validate before it stops

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say where it ended."""
        if self.signal is not None:
            where = f"step {trainer.global_step} of {trainer.max_steps}"
            logger.warning("stopped by %s at %s; %s", self.signal.name, where, self.how_to_resume)

    def on_test_batch_start(self, *_: Any) -> None:
        """End the test in good order: Lightning takes StopIteration for the end of the data."""
        if self.ends_test:
            raise StopIteration

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the signals back."""
        self._phase = (
            ""  # after an error Lightning puts this handler back once more: it ends the program then
        )
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Likewise."""
        self.teardown(trainer, pl_module, "")


_WHAT_FOLLOWS = {
    "fit": "stopping after this step and saving",
    "test": "leaving the turntable",
    "predict": "finishing the export",
}


def any_process(trainer: pl.Trainer, *flags: bool) -> list[bool]:
    """For each flag whether it is set in any process; every process must ask."""
    if trainer.world_size == 1:
        return list(flags)
    tensor = torch.tensor(flags, dtype=torch.int32, device=trainer.strategy.root_device)
    return trainer.strategy.reduce(tensor, reduce_op="max").bool().tolist()
