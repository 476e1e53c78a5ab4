"""The optimisation: losses, what is logged and saved along the way, turntable, export and report."""

import json
import re
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from omegaconf import OmegaConf
from torch import Tensor

import threestudio
from imagedream.cameras import check_angles, view_name
from imagedream.image_prompt.prompt_camera import PromptCamera
from imagedream.pictures import label_strip
from imagedream.runs.checkpoints import Checkpoints
from imagedream.runs.files import atomic_path
from imagedream.runs.signals import StopOnSignal
from threestudio.systems.base import BaseLift3DSystem
from threestudio.utils.config import parse_structured
from threestudio.utils.misc import find_last_path

from .camera_estimate import PromptCameraSettings, of_field, of_four_views, turned_warning
from .chunked_rendering import first_images, render_in_chunks
from .exporter import ImageDreamMeshExporter
from .guidance import SMALL_MODEL_WARNING, ImageDreamGuidance
from .mixing import GuidanceMix
from .prompt_processor import PromptOutput
from .recovery import Recovery
from .regularisers import REGULARISERS

LOSSES = ("lambda_sds", *(f"lambda_{name}" for name in REGULARISERS))


@threestudio.register("imagedream-system")
class ImageDreamSystem(BaseLift3DSystem):
    """A radiance field that a multi-view diffusion model makes look like the object in a picture."""

    @dataclass
    class Config(BaseLift3DSystem.Config):
        """Keys of `system`."""

        exporter_type: str = "imagedream-mesh-exporter"
        guidances: Any = field(default_factory=list)
        """Guidances beside `guidance`, whose weight is `loss.lambda_sds`: a list of `mixing.GuidanceEntry`, or a mapping
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
        names = {"prompt_processor": cfg["prompt_processor_type"]}
        names["exporter"] = cfg.get("exporter_type", cls.Config.exporter_type)
        for kind, name in names.items():
            module = threestudio.find(name)
            if hasattr(module, "preflight"):
                module.preflight(cfg.get(kind, {}))
        GuidanceMix(cfg).preflight()

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
        self._started = time.perf_counter()

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

    # ------------------------------------------------------------------------------------------------ training

    def on_fit_start(self) -> None:
        """Read the prompt, load the diffusion model, show what it makes of the picture."""
        super().on_fit_start()
        start = time.perf_counter()
        self.prompt_processor = threestudio.find(self.cfg.prompt_processor_type)(self.cfg.prompt_processor)
        self.prompt_utils = self.prompt_processor()
        if self._trainer is not None and self.trainer.ckpt_path is None:  # else resumed
            for earlier in ("views.npz", "run.json"):  # of another run in the same folder
                Path(self.get_save_path(earlier)).unlink(missing_ok=True)
        notes = []
        for number, image in enumerate(self.prompt_utils.images, 1):
            image.save(self.get_save_path("prompt.png" if number == 1 else f"prompt-{number}.png"))
            notes += [warning for warning in image.warnings if warning not in notes]
        if self.cfg.guidance.get("weights") == "toybox":
            notes.append(SMALL_MODEL_WARNING)
        self._note(caption=self.prompt_utils.caption, warnings=notes)
        self._lap("prompt", start)
        self.mix = GuidanceMix(self.cfg)
        if self._trainer is not None:
            self.mix.check_steps(self._trainer.max_steps)
        if not Path(self.get_save_path("views.npz")).exists():
            start = time.perf_counter()
            guidance = self.mix.members[0].load(self.true_current_epoch, self.true_global_step)
            self._lap("load model", start)
            if isinstance(guidance, ImageDreamGuidance):
                start = time.perf_counter()
                self.save_views(guidance)
                self._lap("four views", start)
        if "four views" not in self._read_record().get("prompt_cameras", {}):
            self.estimate_prompt_cameras("four views")
        self.prompt_utils = self._with_cameras()
        for member in self.mix:
            member.read_prompt(self.prompt_utils)
        self._started = time.perf_counter()

    def save_views(self, guidance: ImageDreamGuidance) -> None:
        """Sample the diffusion model's four views into `views.png` and `save/views.npz`."""
        output = guidance.pipeline(
            images=self.prompt_utils.images,
            caption=self.prompt_utils.caption,
            negative_caption=self.prompt_utils.negative_caption,
            prompt_temperature=guidance.cfg.prompt_temperature,
            weights=guidance.weights,
            guidance_scale=self.views.guidance_scale,
            num_inference_steps=self.views.steps,
            elevation_deg=self.views.elevation_deg,
            generator=torch.Generator().manual_seed(self.views.seed),
        )
        with atomic_path(self.trial_dir / "views.png") as path:
            label_strip(output.images, output.azimuths_deg).save(path)
        images = (output.images.permute(0, 2, 3, 1).float().cpu() * 255).round().byte()
        self.save_data(
            "views.npz",
            {
                "images": images.numpy(),
                "azimuths_deg": torch.tensor(output.azimuths_deg).numpy(),
                "elevation_deg": torch.tensor(output.elevation_deg).numpy(),
            },
        )
        threestudio.info(f"The diffusion model's four views: {self.trial_dir / 'views.png'}")

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Render a batch of cameras, in chunks if all at once did not fit into memory."""
        most_rays = self.recovery.most_rays
        if most_rays is None or "rays_o" not in batch:
            return self.renderer(**batch)
        return render_in_chunks(self.renderer, batch, most_rays)

    def configure_callbacks(self) -> list[Any]:
        """What keeps a run from being lost, where none of the host's callbacks does."""
        if any(hasattr(callback, "interrupted") for callback in self.trainer.callbacks):
            return []
        return [self.stop, self.checkpoints]

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int, unused: int = 0) -> None:
        """Make the step's random numbers its own before anything draws some."""
        self.recovery.begin_step(batch)
        super().on_train_batch_start(batch, batch_idx, unused)
        if self.true_global_step in self.prompt_camera.steps:
            self.estimate_prompt_cameras(f"step {self.true_global_step}")
            self.prompt_utils = self._with_cameras()
            self.mix.share_prompt(self.prompt_utils)

    def loss_terms(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The terms of a step's loss with their weights, and further numbers to log."""
        out = self(batch)
        terms, numbers = self.mix(out, batch, render=self.forward)
        for name in REGULARISERS:
            weight = self.C(self.cfg.loss.get(f"lambda_{name}", 0.0))
            if weight > 0:
                regulariser = REGULARISERS[name](out)
                numbers[f"loss_{name}"] = regulariser
                terms[f"loss_{name}"] = weight * regulariser
        return terms, numbers

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """One step of distillation, plus regularisers whose weight is not zero."""
        if self.recovery.most_images is not None:
            batch = first_images(batch, self.recovery.most_images, len(batch["c2w"]))
        self.last_terms = lambda: self.loss_terms(batch)[0]
        terms, numbers = self.loss_terms(batch)
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
        self._lap("optimisation", self._started)
        self.estimate_prompt_cameras("field")
        self.mix.free()

    # ----------------------------------------------------------------------------------------- the prompts' cameras

    def estimate_prompt_cameras(self, when: str) -> None:
        """Find out where each picture was taken from, log it and note it in `save/run.json`.

        Args:
            when: "four views", which are looked at then; anything else names a state of the field.
        """
        if not self.prompt_camera.enabled:
            return
        start = time.perf_counter()
        guidance = self.mix.members[0].guidance
        pipeline = guidance.pipeline if isinstance(guidance, ImageDreamGuidance) else None
        try:
            if when == "four views":
                views = Path(self.get_save_path("views.npz"))
                if not views.exists():
                    return
                estimate = of_four_views(views, self.prompt_camera)
            else:
                estimate = of_field(self, self.prompt_camera)
            cameras = [estimate(image.rgba, pipeline) for image in self.prompt_utils.images]
        except ValueError as error:  # nothing there to match: no reason to stop a run
            threestudio.warn(f"The prompt's camera is not known from the {when}: {error}")
            return
        for camera in cameras:
            threestudio.info(f"The prompt's camera by the {when}: {camera}")
        known = self._read_record().get("prompt_cameras", {})
        self._note(prompt_cameras={**known, when: [camera.to_dict() for camera in cameras]})
        self._lap(f"camera by the {when}", start)

    def _with_cameras(self) -> PromptOutput:
        """The prompt with the newest estimates of its cameras."""
        known = self._read_record().get("prompt_cameras", {})
        newest = list(known.values())[-1] if known else []
        return replace(self.prompt_utils, cameras=tuple(PromptCamera.from_dict(one) for one in newest))

    def _turned_warnings(self) -> list[str]:
        """What to say where a picture of a given side looks like another side of the field."""
        processor = threestudio.find(self.cfg.prompt_processor_type)
        given = [azimuth for _, azimuth in processor.given(self.cfg.prompt_processor)]
        cameras = self._read_record().get("prompt_cameras", {}).get("field", ())
        pairs = zip(cameras, given, strict=False)
        found = [turned_warning(PromptCamera.from_dict(camera), azimuth) for camera, azimuth in pairs]
        return [warning for warning in found if warning]

    # ---------------------------------------------------------------------------------- validation and turntable

    def _save_grid(self, filename: str, out: dict[str, Any], name: str) -> None:
        rgb = {"data_format": "HWC", "data_range": (0, 1)}
        cells = [{"type": "rgb", "img": out["comp_rgb"][0], "kwargs": rgb}]
        if "comp_normal" in out:
            cells.append({"type": "rgb", "img": out["comp_normal"][0], "kwargs": rgb})
        cells.append(
            {
                "type": "grayscale",
                "img": out["opacity"][0, :, :, 0],
                "kwargs": {"cmap": None, "data_range": (0, 1)},
            }
        )
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
        """Make the turntable video."""
        name = f"it{self.true_global_step}-test"
        self.save_img_sequence(
            name, name, r"(\d+)\.png", save_format="mp4", fps=30, name="test", step=self.true_global_step
        )

    def on_test_end(self) -> None:
        """Report what is there."""
        super().on_test_end()
        self._lap("turntable", self._started)
        self.write_report()

    # ---------------------------------------------------------------------------------------- export and report

    def on_predict_start(self) -> None:
        """Build the exporter, whose record says where the prompts' cameras lie."""
        self._started = time.perf_counter()
        super().on_predict_start()
        if isinstance(self.exporter, ImageDreamMeshExporter):
            cameras = self._read_record().get("prompt_cameras", {})
            self.exporter.notes = {"prompt_cameras": cameras.get("field") or cameras.get("four views")}
            self.exporter.warnings = self._turned_warnings()

    def on_predict_end(self) -> None:
        """Report what is there, now with the mesh."""
        super().on_predict_end()
        self._lap("export", self._started)
        self.write_report()

    def write_report(self) -> None:
        """Write `report.html`; a report that fails never costs the result it reports on."""
        if not self.cfg.report:
            return
        from imagedream.report import write_report

        try:
            path = write_report(self.trial_dir / "report.html", **self._report_parts())
            threestudio.info(f"Report: {path}")
        except Exception as error:
            threestudio.warn(f"report.html was not written: {type(error).__name__}: {error}")

    def _report_parts(self) -> dict[str, Any]:
        """What the trial folder holds by now, from this run or an earlier one."""
        save = Path(self.get_save_dir())
        record = self._read_record()
        parts: dict[str, Any] = {
            "title": record.get("caption")
            or Path(self.cfg.prompt_processor.get("image_path") or self.trial_dir.name).stem,
            "prompt_image": [save / "prompt.png", *sorted(save.glob("prompt-*.png"))],
            "timings": record.get("seconds"),
            "settings": OmegaConf.to_container(self.cfg),
            "warnings": record.get("warnings", ()),
            "prompt_cameras": record.get("prompt_cameras", {}),
        }
        if (save / "views.npz").exists():
            with np.load(save / "views.npz") as views:
                parts["views"] = [PIL.Image.fromarray(image) for image in views["images"]]
                parts["view_names"] = [view_name(float(azimuth)) for azimuth in views["azimuths_deg"]]
        parts["snapshots"] = []
        for step, path in _by_step(save, r"it(\d+)-0\.png"):
            with PIL.Image.open(path) as grid:  # colour is the leftmost square
                parts["snapshots"].append((f"step {step}", grid.crop((0, 0, grid.height, grid.height))))
        for key, pattern in (("turntable", r"it(\d+)-test\.mp4"), ("mesh", r"it(\d+)-export/.*\.glb")):
            found = _by_step(save, pattern)
            if found:
                parts[key] = found[-1][1]
        name = re.escape(self.cfg.exporter.get("save_name", "model"))
        records = _by_step(save, rf"it(\d+)-export/{name}\.json")
        if records:
            record = records[-1][1]
            parts["mesh_record"] = json.loads(record.read_text(encoding="utf-8"))
            levels = record.with_name(f"{record.stem}-levels.png")
            parts["mesh_levels"] = levels if levels.exists() else None
        return parts

    def _read_record(self) -> dict[str, Any]:
        path = Path(self.get_save_path("run.json"))
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def _note(self, **entries: Any) -> None:
        """Add entries to `save/run.json`, which resuming, testing and exporting add to."""
        self.save_json("run.json", {**self._read_record(), **entries})

    def _lap(self, phase: str, start: float) -> None:
        """Note a phase's seconds."""
        seconds = self._read_record().get("seconds", {})
        self._note(seconds={**seconds, phase: round(time.perf_counter() - start, 2)})


def _by_step(folder: Path, pattern: str) -> list[tuple[int, Path]]:
    """(step, path) of the files below a folder whose relative name matches, earliest step first."""
    files = [
        (re.fullmatch(pattern, path.relative_to(folder).as_posix()), path) for path in folder.rglob("*.*")
    ]
    return sorted((int(match[1]), path) for match, path in files if match)


def _exported_level(checkpoint: Path) -> float | None:
    """The isosurface level of the newest export of a checkpoint's run, if there is one."""
    records = _by_step(checkpoint.parent.parent / "save", r"it(\d+)-export/.*\.json")
    levels = [json.loads(path.read_text(encoding="utf-8")).get("level") for _, path in records]
    return next((level for level in reversed(levels) if level is not None), None)


@dataclass(frozen=True)
class ViewSettings:
    """How the four views shown before the optimisation are sampled."""

    steps: int = 50
    guidance_scale: float | None = None
    """None: what suits the model."""
    elevation_deg: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_angles(self.elevation_deg)


@dataclass
class CheckpointSettings:
    """How often a checkpoint is written by the clock, and how many of these stay."""

    every_n_minutes: float | None = 10.0
    """None: never."""
    keep: int = 2
