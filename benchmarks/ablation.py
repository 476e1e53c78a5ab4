"""The paper's ideas taken apart on the toybox: which image controllers, and from where the cameras count.

    python benchmarks/ablation.py [train] [views] [3d] [report] [--work outputs/ablation] [--out benchmarks/results/ablation]

Seven networks learn with the same budget, seeds, objects and batches: {global, local, pixel} × {canonical cameras,
cameras relative to the prompt's as in Zero123}, and the pixel controller without the local one. An eighth repeats the
first with another seed: what differs there is chance. Each answers for the same held-out toys, whose prompts are taken
from up to 90° on either side of the front; `3d` builds some of them. A network with relative cameras is asked for the
object's own front by an azimuth that a user would not know, and its objects are compared turned by it: what is measured
is the picture, not the lack of a front.

Every stage continues where it was interrupted. Without names all four are done.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "custom" / "threestudio-imagedream"))

import torch  # noqa: E402
import tyro  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from imagedream import checkpoints  # noqa: E402
from imagedream.pictures import contact_sheet, over_white  # noqa: E402
from imagedream.runs.files import atomic_path  # noqa: E402
from imagedream.toybox import FIRST_KINDS  # noqa: E402
from imagedream.workshop.evaluation.bootstrap_intervals import Scores  # noqa: E402
from imagedream.workshop.evaluation.held_out_objects import held_out_cases  # noqa: E402
from imagedream.workshop.evaluation.paper_metrics import METRICS, find_clip  # noqa: E402
from imagedream.workshop.evaluation.tables import markdown_table, save_results  # noqa: E402
from imagedream.workshop.evaluation.views_evaluation import MODEL, evaluate_views  # noqa: E402
from imagedream.workshop.workers import run_processes  # noqa: E402

Stage = Literal["train", "views", "3d", "report"]
AZIMUTH_BANDS_DEG = ((0, 30), (30, 60), (60, 90))
SHOWN = 6
"""Toys in the picture."""


@dataclass(frozen=True)
class Arm:
    """One network of the experiment."""

    controllers: str
    config: str
    cameras: Literal["canonical", "relative"] = "canonical"
    builds: bool = False
    """Whether it takes part in the 3D stage."""
    seed: int = 0
    """Added to the experiment's: another draw of first weights, batches and noise."""

    @property
    def name(self) -> str:
        """For folders and tables."""
        return f"{self.controllers}-{self.cameras}" + (f"-seed-{self.seed}" if self.seed else "")


REFERENCE = Arm("pixel", "toybox-diffusion.yaml", builds=True)
"""The paper's model, to which the others are compared toy by toy."""
ARMS = (
    REFERENCE,
    Arm("pixel", "toybox-diffusion.yaml", "relative", builds=True),
    Arm("local", "toybox-local.yaml", builds=True),
    Arm("local", "toybox-local.yaml", "relative"),
    Arm("global", "toybox-global.yaml"),
    Arm("global", "toybox-global.yaml", "relative"),
    Arm("pixel-only", "toybox-pixel-only.yaml"),
    replace(REFERENCE, builds=False, seed=1),
)


@dataclass(frozen=True)
class Settings:
    """What is run."""

    stages: tyro.conf.Positional[tuple[Stage, ...]] = ()
    """All of them without names."""
    networks: tuple[str, ...] = ()
    """Only these, as in the tables; all without names. Several machines may share the work."""
    training_steps: int = 1000
    """Of each network, all from random weights; more than before continues from there."""
    batch_size: int = 8
    """Groups of four views a step."""
    n: int = 104
    """Held-out toys whose four views are asked for."""
    sampler_steps: int = 12
    guidance_scale: float = 1.5
    n_3d: int = 24
    """Held-out toys that are built."""
    prompt_azimuth_deg: float = 90.0
    """Prompts are taken from up to this far on either side of the front."""
    preset_3d: str = "preview"
    """As `launch.py --preset`."""
    jobs: int = 2
    """Processes side by side, which share the cores."""
    seed: int = 0
    work: Path = ROOT / "outputs" / "ablation"
    """Folder of everything; what is there is used."""
    out: Path = ROOT / "benchmarks" / "results" / "ablation"
    """OUT.md, OUT.json and OUT.png are written."""

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The networks that take part."""
        return tuple(arm for arm in ARMS if not self.networks or arm.name in self.networks)

    @property
    def threads(self) -> int:
        """Of each of the processes."""
        return max(1, (os.cpu_count() or 1) // self.jobs)


def trained(arm: Arm, settings: Settings) -> Path:
    """Folder of a network's whole model."""
    return settings.work / arm.name / "training" / "model"


def train(arm: Arm, settings: Settings) -> None:
    """Train one network, or continue; answers of a shorter training are thrown away."""
    folder = settings.work / arm.name
    finished = folder / "training" / "steps"
    steps = int(finished.read_text()) if finished.exists() else 0
    if steps >= settings.training_steps:
        return
    for old in ("views", "3d"):
        shutil.rmtree(folder / old, ignore_errors=True)
    python(
        settings,
        f"{arm.name}/training.txt",
        *("-m", "imagedream", "train", "--config", f"configs/train/{arm.config}"),
        *(f"out={folder / 'training'}", f"model.cameras={arm.cameras}", f"seed={settings.seed + arm.seed}"),
        *("autoencoder=toybox", "encoder=toybox", "validation_views=0"),
        # toys and depth of the published results
        *(f"data.sample.kinds=[{','.join(FIRST_KINDS)}]", "data.objects=6144"),
        "model.unet_config.transformer_layers_per_block=1",
        *(f"steps={settings.training_steps}", f"data.batch_size={settings.batch_size}"),
        # a short run: warm up, average and fall sooner than the recipes, and look at the validation toys once
        *("optimizer.learning_rate=1e-3", "optimizer.warmup_steps=50", "ema_decay=0.995"),
        *(f"validate_every={settings.training_steps}", "resume_changed=true"),
    )
    finished.write_text(f"{settings.training_steps}\n")


def ask(arm: Arm, settings: Settings) -> None:
    """Four views of the held-out toys."""
    out = settings.work / arm.name / "views"
    if (out / "views.json").exists():
        return
    pipeline = checkpoints.load(trained(arm, settings))
    pipeline.set_progress_bar_config(disable=True)
    cases = held_out_cases(
        settings.n,
        settings.seed,
        prompt_size=pipeline.prompt_size,
        largest_prompt_azimuth_deg=settings.prompt_azimuth_deg,
    )
    evaluation = evaluate_views(
        pipeline,
        cases,
        settings.seed,
        guidance_scale=settings.guidance_scale,
        steps=settings.sampler_steps,
        clip=find_clip("own", pipeline.encoder),
    )
    shown = torch.stack([result.images for result in evaluation.results[:SHOWN]]).contiguous()
    with atomic_path(out / "images.safetensors") as path:
        save_file({"images": shown}, path)
    evaluation.save(out)


def train_and_ask(arm: Arm, settings: Settings, stages: Sequence[str]) -> None:
    """The stages of one network that need no other."""
    if "train" in stages:
        train(arm, settings)
    if "views" in stages:
        ask(arm, settings)


def build(arm: Arm, settings: Settings) -> None:
    """Textured meshes of some of them."""
    out = settings.work / arm.name / "3d"
    python(
        settings,
        f"{arm.name}/3d.txt",
        *(
            "benchmarks/toybox_to_3d.py",
            "--weights",
            str(trained(arm, settings)),
            "--preset",
            settings.preset_3d,
        ),
        *("--n", str(settings.n_3d), "--seed", str(settings.seed), "--jobs", str(settings.jobs)),
        *(
            "--prompt-azimuth-deg",
            str(settings.prompt_azimuth_deg),
            "--work",
            str(out),
            "--out",
            str(out / "scores"),
        ),
    )


def python(settings: Settings, log: str, *arguments: str) -> None:
    """A command of this project with its output in a file of the work folder."""
    file = settings.work / log
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as output:
        code = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(settings.threads)},
            stdout=output,
            stderr=output,
        ).returncode
    if code != 0:
        raise RuntimeError(f"exit code {code}: {' '.join(arguments[:4])} …, see {file}")


def read_views(arm: Arm, settings: Settings) -> dict:
    """What `ask` left."""
    return json.loads((settings.work / arm.name / "views" / "views.json").read_text())


def view_scores(views: dict, metric: str) -> Scores:
    """One metric of the network's own answers."""
    return Scores(tuple(toy["scores"][MODEL][metric] for toy in views["toys"]))


def built_scores(arm: Arm, settings: Settings) -> dict[str, Scores]:
    """Scores of the field and of the mesh, toy by toy."""
    toys = json.loads((settings.work / arm.name / "3d" / "scores.json").read_text())["toys"]
    failed = [toy["toy"] for toy in toys if "error" in toy]
    if failed:
        raise RuntimeError(f"{arm.name}: {', '.join(failed)} failed")
    columns = {
        "field PSNR (dB)": ("field", "psnr_db"),
        "field IoU": ("field", "iou"),
        "mesh PSNR (dB)": ("mesh", "psnr_db"),
        "mesh IoU": ("mesh", "iou"),
        "mesh Chamfer": ("mesh", "chamfer"),
    }
    return {name: Scores(tuple(toy[a][b] for toy in toys)) for name, (a, b) in columns.items()}


def last_loss(arm: Arm, settings: Settings) -> float | None:
    """The loss on the validation toys, which are the same for all."""
    lines = (settings.work / arm.name / "training" / "stats.jsonl").read_text().splitlines()
    losses = [json.loads(line).get("validation/loss") for line in lines]
    return next((loss for loss in reversed(losses) if loss is not None), None)


ScoresOfArms = dict[Arm, dict[str, Scores]]


def differences(pairs: Sequence[tuple[Arm, Arm]], scores: ScoresOfArms) -> list[dict]:
    """The first of each pair minus the second, toy by toy."""
    return [
        {
            "networks": f"{one.name} − {other.name}",
            **{name: str(scores[one][name] - scores[other][name]) for name in scores[one]},
        }
        for one, other in pairs
        if one in scores and other in scores
    ]


def comparisons(arms: Sequence[Arm]) -> list[tuple[Arm, Arm]]:
    """What the experiment asks: each against the paper's model, and relative against canonical cameras."""
    canonical = {(arm.controllers, arm.seed): arm for arm in arms if arm.cameras == "canonical"}
    to_reference = [(arm, REFERENCE) for arm in arms if arm != REFERENCE]
    cameras = [
        (arm, canonical[arm.controllers, arm.seed])
        for arm in arms
        if arm.cameras == "relative" and (arm.controllers, arm.seed) in canonical
    ]
    return list(dict.fromkeys(to_reference + cameras))


def view_tables(settings: Settings) -> tuple[dict[str, list[dict]], ScoresOfArms]:
    """The results of the four views, a table a question, and the scores behind them."""
    views = {arm: read_views(arm, settings) for arm in settings.arms}
    scores = {
        arm: {METRICS[metric]: view_scores(one, metric) for metric in METRICS if metric in one["mean"][MODEL]}
        for arm, one in views.items()
    }
    means = [
        {
            "network": arm.name,
            **{name: one.mean for name, one in of_arm.items()},
            "validation loss": last_loss(arm, settings),
        }
        for arm, of_arm in scores.items()
    ]
    trivial = [
        {"network": name, **{METRICS[metric]: value for metric, value in values.items()}}
        for name, values in views[REFERENCE]["mean"].items()
        if name != MODEL
    ]
    bands = [
        {
            "network": arm.name,
            **{f"{low}–{high}°": band(one, low, high).mean for low, high in AZIMUTH_BANDS_DEG},
            **one["mean_view_psnr_db"],
        }
        for arm, one in views.items()
    ]
    return {
        "Four views: means": [*means, *trivial],
        "Four views: differences, toy by toy (95 % interval)": differences(
            comparisons(settings.arms), scores
        ),
        "Four views: PSNR in dB by the prompt's azimuth from the front, and on each side": bands,
    }, scores


def built_tables(settings: Settings) -> tuple[dict[str, list[dict]], ScoresOfArms]:
    """Likewise of the 3D stage; empty if it was not run."""
    scores = {
        arm: built_scores(arm, settings)
        for arm in settings.arms
        if arm.builds and (settings.work / arm.name / "3d" / "scores.json").exists()
    }
    if not scores:
        return {}, {}
    means = [
        {"network": arm.name, **{name: one.mean for name, one in of_arm.items()}}
        for arm, of_arm in scores.items()
    ]
    compared = differences(comparisons(settings.arms), scores)
    return {"3D: means": means, "3D: differences, toy by toy (95 % interval)": compared}, scores


def band(views: dict, low_deg: float, high_deg: float) -> Scores:
    """PSNR of the toys whose prompts were taken from so far beside the front."""
    toys = [toy for toy in views["toys"] if low_deg <= abs(toy["prompt_azimuth_deg"]) < high_deg]
    return view_scores({"toys": toys}, "psnr_db")


def picture(settings: Settings) -> Image.Image:
    """Two rows for each of the first toys, front and right side: the prompt, the truth, and every network."""
    arms = [arm for arm in settings.arms if not arm.seed]
    answers = [load_file(settings.work / arm.name / "views" / "images.safetensors")["images"] for arm in arms]
    azimuth_deg = settings.prompt_azimuth_deg
    cases = held_out_cases(len(answers[0]), settings.seed, largest_prompt_azimuth_deg=azimuth_deg)
    rows, names = [], []
    for number, case in enumerate(cases):
        prompt, true = (
            over_white(case.prompt),
            case.orbit.on_white(case.object.mesh, answers[0].shape[-1]),
        )
        for view in (0, 3):
            rows.append(
                [prompt if view == 0 else None, true[view], *(images[number, view] for images in answers)]
            )
            names.append(f"{case.prompt_azimuth_deg:.0f}°" if view == 0 else "")
    return contact_sheet(["prompt", "true", *(arm.name for arm in arms)], rows, names=names)


def report(settings: Settings) -> None:
    """Write OUT.md, OUT.json and OUT.png."""
    view_results, view_values = view_tables(settings)
    built_results, built_values = built_tables(settings)
    found = view_results | built_results
    untold = ("work", "out", "stages", "networks", "jobs")
    told = {key: value for key, value in asdict(settings).items() if key not in untold}
    parts = [f"## {title}\n\n{markdown_table(rows)}" for title, rows in found.items()]
    lines = ["# Ablation on the toybox", ", ".join(f"{name} {value}" for name, value in told.items()), *parts]
    text = "\n\n".join(lines)
    values = {
        stage: {
            arm.name: {name: [round(value, 5) for value in one.values] for name, one in scores.items()}
            for arm, scores in of_arms.items()
        }
        for stage, of_arms in (("views", view_values), ("3d", built_values))
    }
    save_results(settings.out, text, {"settings": told, "tables": found, "toys": values}, picture(settings))
    print(text)


def main(settings: Settings) -> None:
    """Do the stages."""
    stages = settings.stages or get_args(Stage)
    settings = replace(settings, work=settings.work.resolve())
    known = [arm.name for arm in ARMS]
    unknown = [name for name in settings.networks if name not in known]
    if unknown:
        sys.exit(f"--networks {' '.join(unknown)}: unknown, there are {', '.join(known)}")
    if "report" in stages and REFERENCE not in settings.arms:
        sys.exit(f"--networks lacks {REFERENCE.name}, to which the report compares the others")
    job = partial(train_and_ask, settings=settings, stages=stages)
    for outcome in run_processes(job, settings.arms, settings.jobs, threads=settings.threads):
        if outcome.error is not None:
            sys.exit(f"{outcome.task.name}: {outcome.error}")
        print(f"{outcome.task.name}: done", flush=True)
    if "3d" in stages:
        for arm in settings.arms:
            if arm.builds:
                build(arm, settings)
                print(f"3d: {arm.name}", flush=True)
    if "report" in stages:
        report(settings)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
