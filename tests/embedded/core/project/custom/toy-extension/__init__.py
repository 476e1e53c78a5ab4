"""A system small enough to train in a test; it writes down in which order it is called."""

import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch

import threestudio
from imagedream.runs.atomic_checkpoints import Checkpoints
from imagedream.runs.signals import StopOnSignal
from threestudio.systems.base import BaseSystem
from threestudio.utils.base import BaseModule


@threestudio.register("toy-part")
class ToyPart(BaseModule):
    @dataclass
    class Config(BaseModule.Config):
        start: float = 1.0

    def configure(self) -> None:
        self.value = torch.nn.Parameter(torch.tensor(self.cfg.start))

    def update_step(self, epoch, global_step, on_load_weights=False):
        ToySystem.events.append(f"part {global_step}")


@threestudio.register("toy-system")
class ToySystem(BaseSystem):
    events: ClassVar[list[str]] = []

    @dataclass
    class Config(BaseSystem.Config):
        part: dict = field(default_factory=dict)
        picture: str | None = None
        ballast_bytes: int = 0
        checkpoints: dict = field(default_factory=dict)
        signals: dict = field(default_factory=dict)
        """Step, test or export -> the signal that comes then, such as {3: SIGINT}."""

    @classmethod
    def preflight(cls, cfg) -> None:
        if cfg.get("picture"):
            raise FileNotFoundError(f"no picture at {cfg.picture}")

    def configure(self) -> None:
        self.part = ToyPart(self.cfg.part)
        self.register_buffer("ballast", torch.zeros(self.cfg.ballast_bytes, dtype=torch.uint8))

    def set_save_dir(self, save_dir):
        super().set_save_dir(save_dir)
        self.stop = StopOnSignal("--resume auto resumes")
        self.checkpoints = Checkpoints(Path(save_dir).parent / "ckpts", **self.cfg.checkpoints)

    def configure_callbacks(self):
        return [self.stop, self.checkpoints]

    def note(self, event: str) -> None:
        ToySystem.events.append(event)

    def receive(self, moment) -> None:
        for name in str(self.cfg.signals.get(moment, "")).split():
            signal.raise_signal(signal.Signals[name])

    def preprocess_data(self, batch, stage):
        self.note(f"preprocess {stage} {batch['height']}")

    def update_step(self, epoch, global_step, on_load_weights=False):
        self.note(f"system {global_step}")

    def update_step_end(self, epoch, global_step):
        self.note(f"end {global_step}")

    def training_step(self, batch, batch_idx):
        self.note(f"step {self.true_global_step}")
        self.receive(self.true_global_step)
        loss = self.part.value**2
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.save_json(
            f"it{self.true_global_step}-{batch['index'].item()}.json", {"value": self.part.value.item()}
        )

    def test_step(self, batch, batch_idx):
        self.note(f"test {self.true_global_step}")
        self.receive("test")

    def predict_step(self, batch, batch_idx):
        pass

    def on_predict_epoch_end(self):
        self.receive("export")
        self.save_json(f"it{self.true_global_step}-export/model.json", {"value": self.part.value.item()})
