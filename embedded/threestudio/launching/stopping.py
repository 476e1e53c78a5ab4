"""Ctrl-C and SIGTERM: the first one ends what is being done and keeps what there is, the second one ends the program."""

import signal
import threading
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import Callback

import threestudio
from threestudio.launching.messages import Quit

SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class PhaseEnded(BaseException):
    """End the phase now and go on with the next; not an error."""


class StopOnSignal(Callback):
    """Context and callback: ends the optimisation after the current step, or the turntable at once; exports anyway."""

    def __init__(self, checkpoint: Path) -> None:
        """`checkpoint` is where an optimisation that was stopped is saved."""
        self.checkpoint = checkpoint
        self.signal: int | None = None
        self._phase = ""
        self._trainer: Any = None
        self._previous: dict[int, Any] = {}

    @property
    def interrupted(self) -> bool:
        """Whether there was a signal."""
        return self.signal is not None

    @property
    def is_urgent(self) -> bool:
        """Whether the program may be killed soon."""
        return self.signal == signal.SIGTERM

    def __enter__(self) -> "StopOnSignal":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._stop) for number in SIGNALS}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: Any) -> None:
        if self.interrupted or not self._phase:
            raise Quit
        self.signal = number
        name, again = SIGNALS[signal.Signals(number)], "once more to quit"
        if self._phase == "fit":
            self._trainer.should_stop = True
            threestudio.warn(f"{name}: stopping after this step, then exporting what is there; {again}")
        elif self._phase == "test":
            threestudio.warn(f"{name}: leaving the turntable, exporting; {again}")
            raise PhaseEnded
        else:
            threestudio.warn(f"{name}: finishing the export; {again}")

    def _begin(self, phase: str, trainer: Any) -> None:
        self._phase, self._trainer = phase, trainer
        for number in self._previous:  # Lightning has put its own handler of SIGTERM there
            signal.signal(number, self._stop)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._begin("fit", trainer)

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        self._begin("test", trainer)

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        self._begin("predict", trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self.interrupted:
            trainer.save_checkpoint(self.checkpoint)
            at = f"Stopped at step {trainer.global_step} of {trainer.max_steps}"
            threestudio.info(f"{at}; resume={self.checkpoint}")
