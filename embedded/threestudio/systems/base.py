"""What every system shares: the order in which things are updated, saved, tested and exported."""

import os
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch.nn.functional as F

import threestudio
from threestudio.systems.utils import parse_optimizer, parse_scheduler
from threestudio.utils.base import Updateable, update_end_if_possible, update_if_possible
from threestudio.utils.config import config_to_primitive, parse_structured
from threestudio.utils.misc import C, cleanup, find_last_path, get_device, load_module_weights
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
        weights_ignore_modules: list[str] | None = None
        cleanup_after_validation_step: bool = False
        cleanup_after_test_step: bool = False

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
            self.load_weights(find_last_path(self.cfg.weights), self.cfg.weights_ignore_modules)
        self.post_configure()

    # ------------------------------------------------------------------------------------------- state of the run

    def load_weights(self, weights: str, ignore_modules: list[str] | None = None) -> None:
        """A checkpoint's weights, not strictly; then everything is told the checkpoint's step."""
        state_dict, epoch, global_step = load_module_weights(
            weights, ignore_modules=config_to_primitive(ignore_modules), map_location="cpu"
        )
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

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        raise NotImplementedError

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        raise NotImplementedError

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        raise NotImplementedError

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        raise NotImplementedError

    def on_validation_epoch_end(self) -> None:
        pass

    def on_test_epoch_end(self) -> None:
        pass

    def on_predict_epoch_end(self) -> None:
        pass

    def preprocess_data(self, batch: Any, stage: str) -> None:
        """Change the batch before it is used; `stage` is train, validation, test or predict."""

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        pass

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        pass

    # -------------------------------------------------------------------------------------------- Lightning's hooks

    def _start_batch(self, batch: Any, stage: str, dataset: Any) -> None:
        self.preprocess_data(batch, stage)
        self.dataset = dataset
        update_if_possible(self.dataset, self.true_current_epoch, self.true_global_step)
        self.do_update_step(self.true_current_epoch, self.true_global_step)

    def _end_batch(self, dataset: Any, clean: bool = False) -> None:
        self.dataset = dataset
        update_end_if_possible(self.dataset, self.true_current_epoch, self.true_global_step)
        self.do_update_step_end(self.true_current_epoch, self.true_global_step)
        if clean:
            cleanup()

    def on_train_batch_start(self, batch: Any, batch_idx: int, unused: int = 0) -> None:
        self._start_batch(batch, "train", _dataset(self.trainer.train_dataloader))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._end_batch(_dataset(self.trainer.train_dataloader))

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._start_batch(batch, "validation", _dataset(self.trainer.val_dataloaders, dataloader_idx))

    def on_validation_batch_end(
        self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        dataset = _dataset(self.trainer.val_dataloaders, dataloader_idx)
        self._end_batch(dataset, clean=self.cfg.cleanup_after_validation_step)

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._start_batch(batch, "test", _dataset(self.trainer.test_dataloaders, dataloader_idx))

    def on_test_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        dataset = _dataset(self.trainer.test_dataloaders, dataloader_idx)
        self._end_batch(dataset, clean=self.cfg.cleanup_after_test_step)

    def on_predict_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._start_batch(batch, "predict", _dataset(self.trainer.predict_dataloaders, dataloader_idx))

    def on_predict_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        dataset = _dataset(self.trainer.predict_dataloaders, dataloader_idx)
        self._end_batch(dataset, clean=self.cfg.cleanup_after_test_step)


class BaseLift3DSystem(BaseSystem):
    """A system that optimises a geometry, its material and a background through a renderer, and exports them."""

    @dataclass
    class Config(BaseSystem.Config):
        geometry_type: str = ""
        geometry: dict = field(default_factory=dict)
        geometry_convert_from: str | None = None
        geometry_convert_inherit_texture: bool = False
        # used to override configurations of the previous geometry being converted from
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

        exporter_type: str = "mesh-exporter"
        exporter: dict = field(default_factory=dict)

    cfg: Config

    def configure(self) -> None:
        convert = self.cfg.geometry_convert_from and not self.cfg.weights and not self.resumed
        if convert:
            self.geometry = self._converted_geometry(find_last_path(self.cfg.geometry_convert_from))
        else:
            self.geometry = threestudio.find(self.cfg.geometry_type)(self.cfg.geometry)
        self.material = threestudio.find(self.cfg.material_type)(self.cfg.material)
        self.background = threestudio.find(self.cfg.background_type)(self.cfg.background)
        self.renderer = threestudio.find(self.cfg.renderer_type)(
            self.cfg.renderer, geometry=self.geometry, material=self.material, background=self.background
        )

    def _converted_geometry(self, checkpoint: str) -> Any:
        """The geometry of another trial, turned into this system's kind."""
        from threestudio.utils.config import OmegaConf, load_config

        threestudio.info(f"Initializing geometry from a given checkpoint: {checkpoint}")
        config_path = os.path.join(os.path.dirname(checkpoint), "..", "configs", "parsed.yaml")
        previous_cfg = parse_structured(self.Config, load_config(config_path).system)
        geometry_cfg = OmegaConf.merge(previous_cfg.geometry, self.cfg.geometry_convert_override)
        previous = threestudio.find(previous_cfg.geometry_type)(geometry_cfg)
        state_dict, epoch, global_step = load_module_weights(
            checkpoint, module_name="geometry", map_location="cpu"
        )
        previous.load_state_dict(state_dict, strict=False)
        previous.do_update_step(epoch, global_step, on_load_weights=True)
        previous = previous.to(get_device())
        geometry = threestudio.find(self.cfg.geometry_type).create_from(
            previous, self.cfg.geometry, copy_net=self.cfg.geometry_convert_inherit_texture
        )
        del previous
        cleanup()
        return geometry

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
                raise ValueError(f"{out.save_type!r} is not a known way to save; known: {', '.join(known)}")
            save(f"it{self.true_global_step}-export/{out.save_name}", **out.params)

    def on_predict_end(self) -> None:
        threestudio.info(f"Export assets saved to {self._save_dir}")

    def guidance_evaluation_save(self, comp_rgb: Any, guidance_eval_out: dict[str, Any]) -> None:
        """Renders beside what the guidance makes of them, one row a view, as `it{step}-train.png`."""
        size = comp_rgb.shape[1]

        def column(images: Any) -> Any:
            resized = F.interpolate(
                images.permute(0, 3, 1, 2), (size, size), mode="bilinear", align_corners=False
            )
            return resized.permute(0, 2, 3, 1).reshape(-1, size, 3)

        columns = [
            comp_rgb,
            *(guidance_eval_out[k] for k in ("imgs_noisy", "imgs_1step", "imgs_1orig", "imgs_final")),
        ]
        self.save_image_grid(
            f"it{self.true_global_step}-train.png",
            [{"type": "rgb", "img": column(images), "kwargs": {"data_format": "HWC"}} for images in columns],
            name="train_step",
            step=self.true_global_step,
            texts=guidance_eval_out["texts"],
        )
