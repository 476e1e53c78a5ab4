"""What every system shares: the order in which things are updated, saved, tested and exported."""

from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl

import threestudio
from threestudio.systems.utils import parse_optimizer, parse_scheduler
from threestudio.utils.base import Updateable, update_end_if_possible, update_if_possible
from threestudio.utils.config import ConfigError, parse_structured
from threestudio.utils.misc import C, find_last_path, load_module_weights
from threestudio.utils.saving import SaverMixin


def _dataset(loaders: Any, index: int = 0) -> Any:
    """The dataset behind Lightning's loader or list of loaders."""
    loader = loaders[index] if isinstance(loaders, list | tuple) else loaders
    return loader.dataset


class BaseSystem(pl.LightningModule, Updateable, SaverMixin):
    """A LightningModule that updates its dataset and its parts before every batch."""

    @dataclass
    class Config:
        loggers: dict = field(default_factory=dict)
        loss: dict = field(default_factory=dict)
        optimizer: dict = field(default_factory=dict)
        scheduler: dict | None = None
        weights: str | None = None

    cfg: Config

    def __init__(self, cfg: Any, resumed: bool = False) -> None:
        super().__init__()
        self.cfg = parse_structured(self.Config, cfg)
        self._save_dir: str | None = None
        self._resumed = resumed
        self._resume_status: tuple[int, int] | None = None
        if "loggers" in cfg:
            self.create_loggers(cfg["loggers"])
        self.configure()
        if self.cfg.weights is not None:
            self.load_weights(find_last_path(self.cfg.weights))
        self.post_configure()

    # ------------------------------------------------------------------------------------------- state of the run

    def load_weights(self, weights: str) -> None:
        """A checkpoint's weights, not strictly; then everything is told the checkpoint's step."""
        state_dict, epoch, global_step = load_module_weights(weights, map_location="cpu")
        self.load_state_dict(state_dict, strict=False)
        self.do_update_step(epoch, global_step, on_load_weights=True)

    def set_resume_status(self, current_epoch: int, global_step: int) -> None:
        """The epoch and step to report outside of training, where Lightning would say 0."""
        self._resume_status = (current_epoch, global_step)

    @property
    def resumed(self) -> bool:
        return self._resumed

    @property
    def true_global_step(self) -> int:
        return self.global_step if self._resume_status is None else self._resume_status[1]

    @property
    def true_current_epoch(self) -> int:
        return self.current_epoch if self._resume_status is None else self._resume_status[0]

    def C(self, value: Any) -> float:
        """A schedule's value now."""
        return C(value, self.true_current_epoch, self.true_global_step)

    # ----------------------------------------------------------------------------------------------- for subclasses

    def configure(self) -> None:
        """Build the parts."""

    def post_configure(self) -> None:
        """After the weights are loaded."""

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = parse_optimizer(self.cfg.optimizer, self)
        result: dict[str, Any] = {"optimizer": optimizer}
        if self.cfg.scheduler is not None:
            result["lr_scheduler"] = parse_scheduler(self.cfg.scheduler, optimizer)
        return result

    def preprocess_data(self, batch: Any, stage: str) -> None:
        """Change the batch before it is used; `stage` is train, validation, test or predict."""

    # -------------------------------------------------------------------------------------------- Lightning's hooks

    def _start_batch(self, batch: Any, stage: str, dataset: Any) -> None:
        self.preprocess_data(batch, stage)
        self.dataset = dataset
        update_if_possible(self.dataset, self.true_current_epoch, self.true_global_step)
        self.do_update_step(self.true_current_epoch, self.true_global_step)

    def _end_batch(self, dataset: Any) -> None:
        self.dataset = dataset
        update_end_if_possible(self.dataset, self.true_current_epoch, self.true_global_step)
        self.do_update_step_end(self.true_current_epoch, self.true_global_step)

    def on_train_batch_start(self, batch: Any, batch_idx: int, unused: int = 0) -> None:
        self._start_batch(batch, "train", _dataset(self.trainer.train_dataloader))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._end_batch(_dataset(self.trainer.train_dataloader))

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._start_batch(batch, "validation", _dataset(self.trainer.val_dataloaders, dataloader_idx))

    def on_validation_batch_end(
        self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._end_batch(_dataset(self.trainer.val_dataloaders, dataloader_idx))

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._start_batch(batch, "test", _dataset(self.trainer.test_dataloaders, dataloader_idx))

    def on_test_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._end_batch(_dataset(self.trainer.test_dataloaders, dataloader_idx))

    def on_predict_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._start_batch(batch, "predict", _dataset(self.trainer.predict_dataloaders, dataloader_idx))

    def on_predict_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._end_batch(_dataset(self.trainer.predict_dataloaders, dataloader_idx))


class BaseLift3DSystem(BaseSystem):
    """A system that optimises a geometry, its material and a background through a renderer, and exports them."""

    @dataclass
    class Config(BaseSystem.Config):
        geometry_type: str = ""
        geometry: dict = field(default_factory=dict)
        # these three start a geometry from that of a finished run, which threestudio does
        geometry_convert_from: str | None = None
        geometry_convert_inherit_texture: bool = False
        geometry_convert_override: dict = field(default_factory=dict)
        material_type: str = ""
        material: dict = field(default_factory=dict)
        background_type: str = ""
        background: dict = field(default_factory=dict)
        renderer_type: str = ""
        renderer: dict = field(default_factory=dict)
        guidance_type: str = ""
        guidance: dict = field(default_factory=dict)
        prompt_processor_type: str = ""
        prompt_processor: dict = field(default_factory=dict)
        exporter_type: str = "dummy-exporter"
        exporter: dict = field(default_factory=dict)

    cfg: Config

    def configure(self) -> None:
        cfg = self.cfg
        if cfg.geometry_convert_from and not cfg.weights and not self.resumed:
            raise ConfigError(
                "system.geometry_convert_from is given; only threestudio itself converts geometries: launch.py "
                "--threestudio DIR"
            )
        threestudio.find(cfg.exporter_type)  # a name that nobody knows shows now, not after the optimisation
        self.geometry = threestudio.find(cfg.geometry_type)(cfg.geometry)
        self.material = threestudio.find(cfg.material_type)(cfg.material)
        self.background = threestudio.find(cfg.background_type)(cfg.background)
        self.renderer = threestudio.find(cfg.renderer_type)(
            cfg.renderer, geometry=self.geometry, material=self.material, background=self.background
        )

    def on_fit_start(self) -> None:
        threestudio.info(f"Validation results will be saved to {self._save_dir}")

    def on_test_end(self) -> None:
        threestudio.info(f"Test results saved to {self._save_dir}")

    def on_predict_start(self) -> None:
        self.exporter = threestudio.find(self.cfg.exporter_type)(
            self.cfg.exporter, geometry=self.geometry, material=self.material, background=self.background
        )

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        if self.exporter.cfg.save_video:
            self.test_step(batch, batch_idx)

    def on_predict_epoch_end(self) -> None:
        if self.exporter.cfg.save_video:
            self.on_test_epoch_end()
        for out in self.exporter():
            save = getattr(self, f"save_{out.save_type}", None)
            if save is None:
                known = sorted(name[5:] for name in dir(self) if name.startswith("save_"))
                raise ValueError(
                    f"{out.save_type!r} is not a known way to save; known: {', '.join(known)}; the rest is threestudio's"
                )
            save(f"it{self.true_global_step}-export/{out.save_name}", **out.params)

    def on_predict_end(self) -> None:
        threestudio.info(f"Export assets saved to {self._save_dir}")
