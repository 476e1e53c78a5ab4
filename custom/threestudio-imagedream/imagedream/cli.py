"""`python -m imagedream VERB ...`: what the library does, from a shell.

A user's mistake ends in one line on stderr and exit code 2; `--verbose` adds the traceback. torch and diffusers are
imported inside the verbs that need them, so `--help` and typing errors answer at once.
"""

import importlib.metadata
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

USER_ERRORS = (ValueError, OSError, ImportError)
"""What the library raises for what a user can put right."""


@dataclass(frozen=True)
class _Verb:
    verbose: bool = False
    """Say more, and show the traceback of an error."""

    def run(self) -> int | None:
        """Do it; the exit code, None for 0."""
        raise NotImplementedError


@dataclass(frozen=True)
class Prepare(_Verb):
    """Any picture -> the prompt the model sees: cut out, centred, in a square frame with transparency."""

    picture: tyro.conf.Positional[Path] = tyro.MISSING
    """PNG, JPEG, WebP, ...; of any colour mode."""
    out: Path = Path("rgba.png")
    """PNG file to write."""
    size: int = 256
    """Side of the frame in pixels."""
    object_fraction: float = 0.9
    """Longest side of the object over the side of the frame."""
    mask: Path | None = None
    """Picture that is white where the object is; otherwise transparency is used, or the background is removed."""

    def run(self) -> None:  # noqa: D102
        _check_ending(self.out, (".png",))
        from imagedream.image_prompt import load_image_prompt

        load_image_prompt(self.picture, self.size, self.object_fraction, self.mask).save(self.out)
        _say(self.out)


@dataclass(frozen=True)
class Views(_Verb):
    """Picture and caption -> four views, labelled front, left, back and right."""

    picture: tyro.conf.Positional[Path] = tyro.MISSING
    """PNG, JPEG, WebP, ...; of any colour mode."""
    caption: str = ""
    """What the object is."""
    out: Path = Path("views.png")
    """Picture to write (.png, .jpg or .webp)."""
    weights: str = "toybox"
    """`toybox` (the small model that ships) or a model folder."""
    seed: int = 0
    """Other seeds give other views."""
    steps: int = 50
    """Sampler steps."""
    guidance_scale: float = 5.0
    """Strength of classifier-free guidance; 1 for none."""
    elevation_deg: float = 5.0
    """Height angle of the four cameras."""
    azimuth_deg: float = 0.0
    """Angle of the first camera; 0 is the object's front."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, ..."""

    def run(self) -> None:  # noqa: D102
        _check_ending(self.out, (".png", ".jpg", ".jpeg", ".webp"))
        if self.steps < 1 or self.guidance_scale < 0:
            raise ValueError(
                f"--steps is {self.steps}, must be at least 1; --guidance-scale is {self.guidance_scale}, at least 0"
            )
        from imagedream import checkpoints
        from imagedream.cameras import check_angles
        from imagedream.image_prompt import load_image_prompt

        # whatever can be wrong is found before the weights are read
        check_angles(self.elevation_deg)
        checkpoints.check(self.weights)
        device = _device(self.device)
        prompt = load_image_prompt(self.picture)
        import torch

        from imagedream.files import atomic_path
        from imagedream.pictures import label_strip

        dtype = torch.float16 if device.type == "cuda" else torch.float32
        pipeline = checkpoints.load(self.weights, dtype=dtype, device=device)
        if self.weights == "toybox":
            logger.info("the small model knows toybox objects only; of other things expect a rough guess")
        output = pipeline(
            prompt,
            caption=self.caption,
            guidance_scale=self.guidance_scale,
            num_inference_steps=self.steps,
            elevation_deg=self.elevation_deg,
            azimuth_deg=self.azimuth_deg,
            generator=torch.Generator().manual_seed(self.seed),
        )
        with atomic_path(self.out) as temporary:
            label_strip(output.images, output.azimuths_deg).save(temporary)
        _say(self.out)


@dataclass(frozen=True)
class Render(_Verb):
    """Mesh file -> a folder of views and cameras as the trainer reads them."""

    mesh: tyro.conf.Positional[Path] = tyro.MISSING
    """GLB, OBJ, PLY, STL, ..."""
    out: Path = Path("views")
    """Folder to make; it must not exist or be empty."""
    caption: str | None = None
    """What the object is; otherwise the file's name."""
    size: int = 256
    """Side of a view in pixels."""
    views: int = 32
    """How many, evenly around the object."""
    elevation_deg: float = 10.0
    """Height angle of the cameras."""
    fov_y_deg: float = 47.5
    """Field of view of the cameras."""
    relative_distance: float = 0.73
    """Half the frame's height at the object's centre; the object's longest side is 1."""
    light: bool = True
    """Shade the object; otherwise its plain colours are seen."""

    def run(self) -> None:  # noqa: D102
        from imagedream.rendering.dataset import Ring, render_mesh_file

        ring = Ring(self.views, self.elevation_deg, self.fov_y_deg, self.relative_distance)
        _say(
            render_mesh_file(
                self.mesh, self.out, caption=self.caption, size=self.size, ring=ring, lit=self.light
            )
        )


@dataclass(frozen=True)
class Train(_Verb):
    """Train the diffusion model or one of its parts; resumes where the run folder's checkpoint stopped."""

    config: Path = tyro.MISSING
    """YAML file, see configs/train/."""
    overrides: tyro.conf.Positional[tuple[str, ...]] = ()
    """`key=value`, `key.sub=value`: what to change in it."""

    def run(self) -> None:  # noqa: D102
        wrong = [override for override in self.overrides if "=" not in override]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is not of the form key=value")
        if not self.config.is_file():
            raise FileNotFoundError(f"--config is {self.config}, there is no such file")
        from imagedream.training import train

        _say(train(self.config, list(self.overrides)))


@dataclass(frozen=True)
class Assemble(_Verb):
    """Trained parts -> one model folder in half precision, with a picture of the loss curves."""

    out: Path = tyro.MISSING
    """Folder to write."""
    network: Path = Path("outputs/train/toybox-diffusion")
    """Run folder of the multi-view network."""
    autoencoder: Path = Path("outputs/train/toybox-autoencoder")
    """Run folder of the autoencoder, whose decoder may have learned on since the network began."""
    encoder: Path = Path("outputs/train/toybox-encoder")
    """Run folder of the towers, for their curve."""

    def run(self) -> None:  # noqa: D102
        for run in (self.network, self.autoencoder, self.encoder):
            if not (run / "stats.jsonl").is_file():
                raise FileNotFoundError(f"{run} is no run folder of `train`: it has no stats.jsonl")
        from imagedream.training.assemble import assemble, plot_curves

        assemble(self.network, self.autoencoder, self.out)
        plot_curves([self.encoder, self.autoencoder, self.network], self.out / "curves.png")
        _say(self.out)


@dataclass(frozen=True)
class Evaluate(_Verb):
    """Metrics of a model on toys it has never seen, beside trivial answers, as a table."""

    what: tyro.conf.Positional[Literal["views"]] = tyro.MISSING
    """`views`: the four views against the true ones."""
    weights: str = "toybox"
    """`toybox` (the small model that ships) or a model folder."""
    n: int = 16
    """How many toys."""
    seed: int = 0
    """Decides toys, cameras and noise."""
    kinds: tuple[str, ...] = ()
    """Kinds of toys; none for those the small model is trained on."""
    steps: int = 50
    """Sampler steps."""
    guidance_scale: float = 5.0
    """Strength of classifier-free guidance; 1 for none."""
    captions: bool = True
    """Tell the model each toy's caption."""
    json: bool = False
    """Print JSON with every toy's numbers instead of the table."""
    out: Path | None = None
    """Folder for the table, the numbers and a contact sheet."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, ..."""

    def run(self) -> None:  # noqa: D102
        for name, value in (("--n", self.n), ("--steps", self.steps)):
            if value < 1:
                raise ValueError(f"{name} is {value}, must be at least 1")
        from imagedream import checkpoints

        checkpoints.check(self.weights)
        device = _device(self.device)
        from imagedream.evaluation.views import evaluate_views

        pipeline = checkpoints.load(self.weights, device=device)
        pipeline.set_progress_bar_config(disable=True)
        evaluation = evaluate_views(
            pipeline,
            self.n,
            seed=self.seed,
            kinds=self.kinds or None,
            guidance_scale=self.guidance_scale,
            steps=self.steps,
            captions=self.captions,
        )
        if self.out is not None:
            evaluation.save(self.out)
        _say(json.dumps(evaluation.to_dict(), indent=1) if self.json else evaluation.table())


@dataclass(frozen=True)
class Doctor(_Verb):
    """What this machine has: versions, device, weights, and what is missing."""

    def run(self) -> int:  # noqa: D102
        from imagedream import checkpoints

        _say(f"python      {sys.version.split()[0]} on {sys.platform}, {os.cpu_count()} cores")
        missing = []
        for name in _REQUIRED:
            version = _version(name)
            missing += [name] if version is None else []
            _say(f"{'ok     ' if version else 'MISSING'}     {name} {version or ''}".rstrip())
        if "torch" not in missing:
            import torch

            if torch.cuda.is_available():
                free, total = torch.cuda.mem_get_info()
                name = torch.cuda.get_device_name()
                _say(
                    f"device      {name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free (CUDA {torch.version.cuda})"
                )
            else:
                _say("device      CPU; no CUDA device that torch can use")
        for name, use in _OPTIONAL.items():
            _say(f"optional    {name} {_version(name) or 'not installed'}: {use}")
        try:
            checkpoints.check("toybox")
            _say("ok          weights of the small model")
        except checkpoints.CheckpointError as error:
            missing.append("weights")
            _say(f"MISSING     {error}")
        return 1 if missing else 0


_REQUIRED = (
    *("torch", "diffusers", "open_clip_torch", "safetensors", "numpy", "pillow", "opencv-python-headless"),
    *("jaxtyping", "omegaconf", "pytorch-lightning", "tyro"),
    *("trimesh", "embreex", "xatlas", "scikit-image", "fast-simplification", "imageio", "imageio-ffmpeg"),
)
_OPTIONAL = {
    "rembg": "better background removal (needs its model file too)",
    "nerfacc": "faster volume rendering on CUDA",
    "tinycudann": "faster hash grids on CUDA",
}


def _version(distribution: str) -> str | None:
    names = (
        ("opencv-python-headless", "opencv-python") if distribution.startswith("opencv") else (distribution,)
    )
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _device(name: str) -> "torch.device":
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device is {name}, must be auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device is {name}, but torch finds no CUDA device here; use cpu")
    return device


def _check_ending(path: Path, allowed: Sequence[str]) -> None:
    if path.suffix.lower() not in allowed:
        raise ValueError(f"--out is {path}, its name must end in {' or '.join(allowed)}")


def _say(line: object) -> None:
    """A result, on stdout; everything else is logged to stderr."""
    sys.stdout.write(f"{line}\n")


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return ("warning: " if record.levelno >= logging.WARNING else "") + super().format(record)


@contextmanager
def _logging_to_stderr(verbose: bool) -> Iterator[None]:
    handler = logging.StreamHandler()
    handler.setFormatter(_Line("%(message)s"))
    library = logging.getLogger("imagedream")
    level = library.level
    library.addHandler(handler)
    library.setLevel(logging.DEBUG if verbose else logging.INFO)
    try:
        yield
    finally:
        library.removeHandler(handler)
        library.setLevel(level)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error) or type(error).__name__
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


Verb = (
    Annotated[Prepare, tyro.conf.subcommand("prepare")]
    | Annotated[Views, tyro.conf.subcommand("views")]
    | Annotated[Render, tyro.conf.subcommand("render")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Assemble, tyro.conf.subcommand("assemble")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: arguments without the program's name; None takes the process's own.

    Returns:
        Exit code: 0, 1 when `doctor` misses something, 2 for a user's mistake, 130 when interrupted.
    """
    verb = tyro.cli(Verb, prog="imagedream", description="ImageDream: one picture, four views.", args=argv)
    with _logging_to_stderr(verb.verbose):
        try:
            return verb.run() or 0
        except USER_ERRORS as error:
            if verb.verbose:
                traceback.print_exc()
            sys.stderr.write(f"imagedream: {_one_line(error)}\n")
            return 2
        except KeyboardInterrupt:
            sys.stderr.write("imagedream: interrupted\n")
            return 130
