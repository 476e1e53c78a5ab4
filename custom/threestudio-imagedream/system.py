"""The optimisation: losses, what is logged and saved along the way, turntable, export and report."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Interval
from torch import Tensor

import threestudio
from imagedream.image_prompt.picture_projection import LEAST_CERTAINTY
from imagedream.image_prompt.prompt_camera import PromptCamera
from imagedream.pictures import label_strip
from imagedream.runs.atomic_checkpoints import Checkpoints
from imagedream.runs.files import atomic_path
from imagedream.runs.ranges import (
    Count,
    ElevationDeg,
    NotNegative,
    Positive,
    Seed,
    check_ranges,
)
from imagedream.runs.signals import StopOnSignal
from threestudio.systems.base import BaseLift3DSystem
from threestudio.utils.config import parse_structured
from threestudio.utils.misc import find_last_path

from .camera_estimate import (
    PromptCameraSettings,
    check_prompt_camera,
    clip_embedding,
    estimate_cameras,
    sharp_pictures,
    turned_warnings,
)
from .chunked_rendering import first_images, render_in_chunks
from .exporter import ImageDreamMeshExporter
from .guidance import SMALL_MODEL_WARNING, DiffusionGuidance
from .guidances import GuidanceMix, preflight
from .reconstruction import ReconstructionGuidance
from .recovery import Recovery
from .regularisers import REGULARISERS
from .trial import RunRecord, by_step, write_trial_report

LOSSES = ("lambda_sds", *(f"lambda_{name}" for name in REGULARISERS))


@threestudio.register("imagedream-system")
class ImageDreamSystem(BaseLift3DSystem):
    """A radiance field that a multi-view diffusion model makes look like the object in a picture."""

    @dataclass
    class Config(BaseLift3DSystem.Config):
        """Keys of `system`."""

        exporter_type: str = "imagedream-mesh-exporter"
        guidances: Any = field(default_factory=list)
        """Guidances beside `guidance`, whose weight is `loss.lambda_sds`: a list of `guidances.GuidanceEntry`, or a mapping
        from names of your choice to them, which the command line can override (`system.guidances.NAME.weight=0.5`)."""
        prompt_camera: dict = field(default_factory=dict)
        """Where the pictures were taken from: `camera_estimate.PromptCameraSettings`."""
        views: dict = field(default_factory=dict)
        """How the four views shown before the optimisation are sampled: steps, guidance_scale, elevation_deg, seed."""
        checkpoints: dict = field(default_factory=dict)
        """Those by the clock, besides the experiment's `checkpoint`: `CheckpointSettings`."""
        report: bool = True
        """Write report.html into the trial folder after test and export."""

    cfg: Config

    @classmethod
    def preflight(cls, cfg: Any) -> None:
        """Check picture, captions, weights and what is to be exported, in milliseconds.

        Args:
            cfg: the `system` part of the experiment's config.

        Raises:
            ValueError: with one line that says what was got and what is allowed.
            ImportError: what is to be exported needs a library that is not installed.
        """
        parse_structured(cls.Config, cfg)
        preflight(cfg["prompt_processor_type"], cfg.get("prompt_processor", {}))
        preflight(cfg.get("exporter_type", cls.Config.exporter_type), cfg.get("exporter", {}))
        GuidanceMix(cfg).preflight()
        check_prompt_camera(cfg)

    def configure(self) -> None:
        """Build geometry, material, background and renderer; prompt and guidance wait until training starts.

        A geometry made from that of a finished run takes the isosurface that the run's export chose.
        """
        if self.cfg.geometry_convert_from:
            level = _exported_level(Path(find_last_path(self.cfg.geometry_convert_from)))
            override = {"isosurface_threshold": "auto" if level is None else level}
            self.cfg.geometry_convert_override = {**override, **self.cfg.geometry_convert_override}
        super().configure()
        unknown = sorted(set(self.cfg.loss) - set(LOSSES))
        if unknown:
            raise ValueError(f"system.loss has unknown keys {', '.join(unknown)}; known: {', '.join(LOSSES)}")
        self.views = parse_structured(ViewSettings, self.cfg.views)
        self.prompt_camera = parse_structured(PromptCameraSettings, self.cfg.prompt_camera)
        self.recovery = Recovery(self)

    def set_save_dir(self, save_dir: str) -> None:
        """Say where files go; the host calls it before it trains."""
        super().set_save_dir(save_dir)
        settings = parse_structured(CheckpointSettings, self.cfg.checkpoints)
        folder = self.trial_dir / "ckpts"
        self.stop = StopOnSignal("--resume auto resumes")
        self.checkpoints = Checkpoints(folder, settings.every_n_minutes, keep=settings.keep)

    @property
    def trial_dir(self) -> Path:
        """Folder of the trial, the parent of `save`."""
        return Path(self.get_save_dir()).parent

    @property
    def record(self) -> RunRecord:
        """What is noted in `save/run.json`."""
        return RunRecord(Path(self.get_save_path("run.json")))

    # ------------------------------------------------------------------------------------------------ training

    def on_fit_start(self) -> None:
        """Read the prompt, load the diffusion model, show what it makes of the picture."""
        super().on_fit_start()
        if self._trainer is not None and self.trainer.ckpt_path is None:  # else resumed
            for earlier in ("views.npz", "targets.npz", "run.json"):  # of another run in the same folder
                Path(self.get_save_path(earlier)).unlink(missing_ok=True)
        with self.record.timed("prompt"):
            self.read_prompt()
        self.mix = GuidanceMix(self.cfg)
        if self._trainer is not None:
            self.mix.check_steps(self._trainer.max_steps)
        if not Path(self.get_save_path("views.npz")).exists():
            with self.record.timed("load model"):
                guidance = self.mix.members[0].load(self.true_current_epoch, self.true_global_step)
            if isinstance(guidance, DiffusionGuidance):
                with self.record.timed("four views"):
                    self.make_views(guidance)
        else:
            self.read_targets()
        for member in self.mix:
            member.read_prompt(self.prompt_utils)
        self._started = time.perf_counter()

    def read_prompt(self) -> None:
        """Prepare the prompt, save its pictures and note what may spoil the result."""
        self.prompt_processor = threestudio.find(self.cfg.prompt_processor_type)(self.cfg.prompt_processor)
        self.prompt_utils = self.prompt_processor()
        notes = []
        for number, image in enumerate(self.prompt_utils.images, 1):
            image.save(self.get_save_path("prompt.png" if number == 1 else f"prompt-{number}.png"))
            notes += [warning for warning in image.warnings if warning not in notes]
        if self.cfg.guidance.get("weights") == "toybox":
            notes.append(SMALL_MODEL_WARNING)
        self.record.note(prompt=self.prompt_utils.prompt, warnings=notes)
        self._use_cameras(self.record.cameras())  # of a resumed run

    def make_views(self, guidance: DiffusionGuidance) -> None:
        """Sample the diffusion model's four views into `views.png` and `save/views.npz`; reconstruction begins with them."""
        how = {
            "guidance_scale": self.views.guidance_scale,
            "num_inference_steps": self.views.steps,
            "elevation_deg": self.views.elevation_deg,
        }
        output = guidance.sample_views(self.prompt_utils, self.views.seed, **how)
        if isinstance(guidance, ReconstructionGuidance):
            guidance.begin(self.prompt_utils, output, self.views.seed, **how)
            self.save_targets()
        with atomic_path(self.trial_dir / "views.png") as path:
            label_strip(output.images, output.azimuths_deg).save(path)
        images = (output.images.permute(0, 2, 3, 1).float().cpu() * 255).round().byte()
        self.save_data(
            "views.npz",
            {
                "images": images.numpy(),
                "azimuths_deg": torch.tensor(output.azimuths_deg).numpy(),
                "elevation_deg": torch.tensor(self.views.elevation_deg).numpy(),
            },
        )
        threestudio.info(f"The diffusion model's four views: {self.trial_dir / 'views.png'}")

    def save_targets(self) -> None:
        """Keep new pictures that reconstruction fits to, for a run that goes on and for the report."""
        guidance = self.mix.members[0].guidance
        if isinstance(guidance, ReconstructionGuidance) and guidance.has_new_targets:
            self.save_data("targets.npz", guidance.targets.to_arrays())
            guidance.has_new_targets = False

    def read_targets(self) -> None:
        """Give a resumed run's reconstruction the pictures that it had."""
        path = Path(self.get_save_path("targets.npz"))
        if path.exists():
            guidance = self.mix.members[0].load(self.true_current_epoch, self.true_global_step)
            if isinstance(guidance, ReconstructionGuidance):
                guidance.read_targets(path)

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Render a batch of cameras, in chunks if all at once did not fit into memory."""
        most_rays = self.recovery.most_rays
        if most_rays is None or "rays_o" not in batch:
            return self.renderer(**batch)
        return render_in_chunks(self.renderer, batch, most_rays)

    def configure_callbacks(self) -> list[Any]:
        """What keeps a run from being lost, in either host."""
        return [self.stop, self.checkpoints]

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int, unused: int = 0) -> None:
        """Make the step's random numbers its own before anything draws some."""
        self.recovery.begin_step(batch)
        # Lightning restores modes after a validation by setting `training`; threestudio's renderers shift their samples at
        # random only after a call of their own `train`.
        self.renderer.train(self.renderer.training)
        super().on_train_batch_start(batch, batch_idx, unused)
        if self.true_global_step in self.prompt_camera.steps:
            self.estimate_prompt_cameras(f"step {self.true_global_step}")
            self.mix.share_prompt(self.prompt_utils)

    def loss_terms(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The terms of a step's loss with their weights, and further numbers to log."""
        terms, numbers, out = self.mix(batch, render=self.forward)
        for name in REGULARISERS:
            weight = self.C(self.cfg.loss.get(f"lambda_{name}", 0.0))
            if weight > 0:
                regulariser = REGULARISERS[name](out)
                numbers[f"loss_{name}"] = regulariser
                terms[f"loss_{name}"] = weight * regulariser
        return terms, numbers

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """One step of guidance, plus regularisers whose weight is not zero."""
        if self.recovery.most_images is not None:
            batch = first_images(batch, self.recovery.most_images, len(batch["c2w"]))
        self.last_terms = lambda: self.loss_terms(batch)[0]
        terms, numbers = self.loss_terms(batch)
        self.save_targets()
        self.recovery.check_terms(terms)
        for name, value in numbers.items():
            self.log(f"train/{name}", value)
        for name, value in self.cfg.loss.items():
            self.log(f"train_params/{name}", self.C(value))
        return {"loss": sum(terms.values())}

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Let no bad gradient through."""
        self.recovery.check_gradients(optimizer)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """A step, tried again as long as there is a remedy for what went wrong."""
        while not self._try_step(epoch, batch_idx, optimizer, optimizer_closure):
            self.recovery.begin_again()

    def _try_step(self, *arguments: Any) -> bool:
        try:
            super().optimizer_step(*arguments)
        except Exception as error:
            self.recovery.remedy(error)
            return False
        return True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what was learned about the memory."""
        checkpoint["recovery"] = self.recovery.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What was learned about the memory."""
        if "recovery" in checkpoint:
            self.recovery.load_state_dict(checkpoint["recovery"])

    def on_train_end(self) -> None:
        """Note how long the optimisation took; see the pictures in the field; free the guidances."""
        self.record.lap("optimisation", self._started)
        self.record.note(
            steps=self.true_global_step,
            interrupted=self.stop.signal is not None,
            device=str(self.device),
            threads=torch.get_num_threads(),
        )
        self.estimate_prompt_cameras("field")
        self.mix.free()

    # ----------------------------------------------------------------------------------------- the prompts' cameras

    def estimate_prompt_cameras(self, when: str) -> None:
        """Find out from the field where each picture was taken from, log it and note it in `save/run.json`.

        Args:
            when: name of the field's state: "field" after the optimisation, "step N" before.
        """
        if not self.prompt_camera.enabled:
            return
        guidance = self.mix.members[0].guidance
        encoder = guidance.pipeline.encoder if isinstance(guidance, DiffusionGuidance) else None
        try:
            with self.record.timed(f"camera by the {when}"):
                cameras = estimate_cameras(self, self.prompt_utils.images, self.prompt_camera, encoder)
        except ValueError as error:  # nothing there to match: no reason to stop a run
            threestudio.warn(f"The prompt's camera is not known from the {when}: {error}")
            return
        for camera in cameras:
            threestudio.info(f"The prompt's camera by the {when}: {camera}")
        self.record.note_cameras(when, cameras)
        self._use_cameras(cameras)

    def _use_cameras(self, cameras: Sequence[PromptCamera]) -> None:
        self.prompt_utils = replace(self.prompt_utils, cameras=tuple(cameras))

    # ---------------------------------------------------------------------------------- validation and turntable

    def _save_grid(self, filename: str, out: dict[str, Any], name: str) -> None:
        rgb = {"data_format": "HWC", "data_range": (0, 1)}
        grey = {"cmap": None, "data_range": (0, 1)}
        pictures = [out[key][0] for key in ("comp_rgb", "comp_normal") if key in out]
        cells = [{"type": "rgb", "img": picture, "kwargs": rgb} for picture in pictures]
        cells.append({"type": "grayscale", "img": out["opacity"][0, :, :, 0], "kwargs": grey})
        self.save_image_grid(filename, cells, name=name, step=self.true_global_step)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Save a view: colour, normals if there are any, opacity."""
        index = batch["index"][0].item()
        self._save_grid(f"it{self.true_global_step}-{index}.png", self(batch), "validation_step")

    def on_validation_epoch_end(self) -> None:
        """The host asks for this hook."""

    def on_test_start(self) -> None:
        """Note when the turntable began."""
        self._started = time.perf_counter()

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Save a frame of the turntable."""
        index = batch["index"][0].item()
        self._save_grid(f"it{self.true_global_step}-test/{index}.png", self(batch), "test_step")

    def on_test_epoch_end(self) -> None:
        """Make the turntable video, unless a signal ended the turntable."""
        if self.stop.ends_test:
            return
        name = f"it{self.true_global_step}-test"
        self.save_img_sequence(
            name, name, r"(\d+)\.png", save_format="mp4", fps=30, name="test", step=self.true_global_step
        )

    def on_test_end(self) -> None:
        """Report what is there."""
        super().on_test_end()
        self.record.lap("turntable", self._started)
        self.write_report()

    # ---------------------------------------------------------------------------------------- export and report

    def on_predict_start(self) -> None:
        """Build the exporter, whose record says where the prompts' cameras lie."""
        self._started = time.perf_counter()
        super().on_predict_start()
        if isinstance(self.exporter, ImageDreamMeshExporter):
            cameras = self.record.cameras("field")
            self.exporter.notes = {"prompt_cameras": [camera.to_dict() for camera in cameras] or None}
            processor = threestudio.find(self.cfg.prompt_processor_type)
            self.exporter.warnings = turned_warnings(cameras, processor.given(self.cfg.prompt_processor))
            if self.exporter.cfg.picture_detail == "auto":
                self._give_pictures(processor, cameras)

    def _give_pictures(self, processor: Any, cameras: Sequence[PromptCamera]) -> None:
        """Let the exporter have the pictures' own pixels."""
        size = self.exporter.cfg.texture_size
        self.exporter.pictures = sharp_pictures(processor, self.cfg.prompt_processor, cameras, size)
        if not self.exporter.pictures:
            threestudio.info(
                "The pictures' own pixels are not on the mesh: where they were taken from is not known"
            )
        elif "weights" in self.cfg.guidance and any(one.certainty >= LEAST_CERTAINTY for one in cameras):
            self.exporter.embed = clip_embedding(self.cfg.guidance.weights, self.device)

    def on_predict_end(self) -> None:
        """Report what is there, now with the mesh."""
        super().on_predict_end()
        self.record.lap("export", self._started)
        self.write_report()

    def write_report(self) -> None:
        """Write `report.html`; a report that fails never costs the result it reports on."""
        if not self.cfg.report:
            return
        try:
            threestudio.info(f"Report: {write_trial_report(self.trial_dir, self.record, self.cfg)}")
        except Exception as error:
            threestudio.warn(f"report.html was not written: {type(error).__name__}: {error}")


def _exported_level(checkpoint: Path) -> float | None:
    """The isosurface level of the newest export of a checkpoint's run, if there is one."""
    records = by_step(checkpoint.parent.parent / "save", r"it(\d+)-export/.*\.json")
    levels = [json.loads(path.read_text(encoding="utf-8")).get("level") for _, path in records]
    return next((level for level in reversed(levels) if level is not None), None)


@dataclass(frozen=True)
class ViewSettings:
    """How the four views shown before the optimisation are sampled."""

    steps: Annotated[int, Interval(ge=1, le=1000)] | None = None
    """None: what suits the model, here and below."""
    guidance_scale: NotNegative | None = None
    elevation_deg: ElevationDeg = 5.0
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_ranges(self, "system.views")


@dataclass(frozen=True)
class CheckpointSettings:
    """How often a checkpoint is written by the clock, and how many of these stay."""

    every_n_minutes: Positive | None = 10.0
    """None: never."""
    keep: Count = 2

    def __post_init__(self) -> None:
        check_ranges(self, "system.checkpoints")
