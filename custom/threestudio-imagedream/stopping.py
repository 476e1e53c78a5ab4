"""For hosts that do not see to it themselves: checkpoints by the clock, and an end in good order on Ctrl-C or SIGTERM."""

import signal
import threading
import time
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import Callback

import threestudio

MINUTES_BETWEEN_CHECKPOINTS = 10
CHECKPOINTS_KEPT = 2


class SaveAndStop(Callback):
    """The first signal ends the optimisation after the current step and saves it, the second one ends the program."""

    def __init__(self, folder: Path) -> None:
        """`folder` is where checkpoints go."""
        self.folder = folder
        self.interrupted = False
        self._trainer: Any = None
        self._saved = 0.0
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Listen."""
        self._trainer, self._saved = trainer, time.monotonic()
        if threading.current_thread() is threading.main_thread():
            numbers = (signal.SIGINT, signal.SIGTERM)
            self._previous = {number: signal.signal(number, self._stop) for number in numbers}

    def _stop(self, number: int, frame: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = self._trainer.should_stop = True
        name = signal.Signals(number).name
        threestudio.warn(f"{name}: stopping after this step and saving; once more to quit")

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Save if it is time, and remove all but the newest of what was saved here."""
        if time.monotonic() - self._saved < 60 * MINUTES_BETWEEN_CHECKPOINTS:
            return
        trainer.save_checkpoint(self.folder / f"recent-step={trainer.global_step}.ckpt")
        self._saved = time.monotonic()
        recent = sorted(self.folder.glob("recent-step=*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
        for path in recent[:-CHECKPOINTS_KEPT]:
            path.unlink(missing_ok=True)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Save what is there if it was stopped."""
        self._restore()
        if self.interrupted:
            trainer.save_checkpoint(self.folder / "last.ckpt")
            threestudio.info(f"Stopped at step {trainer.global_step}; resume={self.folder / 'last.ckpt'}")

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Listen no longer."""
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
