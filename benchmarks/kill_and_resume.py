"""Kills a real run at random moments, lets it go on with `--resume auto`, and holds the end against a run left alone.

    python benchmarks/kill_and_resume.py --kills 20 --out benchmarks/results/kill_and_resume

Each trial is killed (SIGKILL) several times: when a randomly chosen checkpoint has been written, and a random part of a
second later, so in the middle of a step, of a checkpoint or of whatever comes then.
"""

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "custom" / "threestudio-imagedream"))

from imagedream.workshop.evaluation.tables import save_results  # noqa: E402

SHORT = (
    *("--config", "imagedream-toybox.yaml", "use_timestamp=false", "data.height=32", "data.width=32"),
    *("data.n_val_views=1", "data.n_test_views=1", "system.views.steps=1", "trainer.log_every_n_steps=5"),
    *("system.exporter.resolution=16", "system.exporter.texture_size=64", "system.exporter.target_faces=200"),
    *("checkpoint.save_top_k=2", "system.checkpoints.every_n_minutes=null"),
    f"system.prompt_processor.image_path={ROOT / 'launch_examples' / 'robot.png'}",
)


@dataclass
class Trial:
    """A run that was killed several times, and how far its end is from that of the run left alone."""

    killed_after_steps: list[int]
    """Of the newest checkpoint at each kill."""
    final_step: int
    largest_difference: float
    """Of any value of the field, its occupancy grid and the optimiser, relative to the largest value of its tensor."""
    relative_difference: float
    """Norm of the difference of the whole state relative to the norm of the state."""


def launch(arguments: list[str], log: str) -> None:
    """In a process of its own: what `python launch.py` does."""
    with open(log, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.path[:0] = [str(ROOT), str(ROOT / "embedded")]
    import launch as script

    sys.argv = ["launch.py", *arguments]
    raise SystemExit(script.main(arguments))


def last_step(folder: Path) -> int:
    """The step of the newest checkpoint file, whole or not."""
    steps = [int(path.stem.rpartition("=")[2]) for path in folder.glob("epoch=*.ckpt")]
    return max(steps, default=0)


def run(
    context, arguments: list[str], log: Path, kill_at: int | None, folder: Path, rng: random.Random
) -> bool:
    """Start a run; kill it soon after the checkpoint of step `kill_at`. Whether it was killed."""
    process = context.Process(target=launch, args=(arguments, str(log)))
    process.start()
    while process.is_alive():
        if kill_at is not None and last_step(folder) >= kill_at:
            time.sleep(rng.uniform(0, 0.7))
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.005)
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"a run ended with {process.exitcode}:\n{log.read_text()[-2000:]}")
    return process.exitcode != 0


def tensors(tree) -> dict:
    """All tensors of nested dicts and lists."""
    import torch
    from torch.utils._pytree import keystr, tree_flatten_with_path

    leaves, _ = tree_flatten_with_path(tree)
    return {keystr(path): leaf.double() for path, leaf in leaves if isinstance(leaf, torch.Tensor)}


def compared(first: Path, second: Path) -> tuple[int, float, float]:
    """`Trial`'s numbers: the second checkpoint's step, and how far it is from the first."""
    import torch

    states = []
    for path in (first, second):
        checkpoint = torch.load(path, weights_only=True)
        states.append(tensors({key: checkpoint[key] for key in ("state_dict", "optimizer_states")}))
    one, other = states
    if one.keys() != other.keys():
        raise ValueError(f"{first} and {second} do not hold the same")
    largest = max(
        float((one[name] - other[name]).abs().max() / one[name].abs().max().clamp_min(1e-30))
        for name in one
        if one[name].numel()
    )
    square = sum(float((one[name] - other[name]).square().sum()) for name in one)
    return (
        checkpoint["global_step"],
        largest,
        (square / sum(float(value.square().sum()) for value in one.values())) ** 0.5,
    )


def main(argv: list[str] | None = None) -> list[Trial]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kills-per-trial", type=int, default=4)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=5, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="results as OUT.json and OUT.md")
    parser.add_argument("overrides", nargs="*", help="of the config")
    options = parser.parse_args(argv)

    rng = random.Random(options.seed)
    context = multiprocessing.get_context("forkserver")  # imports once, so that starting again is cheap
    context.set_forkserver_preload(["torch", "pytorch_lightning", "diffusers", "open_clip", "torchvision"])
    trials = []
    with tempfile.TemporaryDirectory() as name:
        outputs = Path(name)

        def arguments(tag: str) -> list[str]:
            steps = [f"trainer.max_steps={options.steps}", f"checkpoint.every_n_train_steps={options.every}"]
            return [*SHORT, *steps, "name=run", f"exp_root_dir={outputs}", f"tag={tag}", *options.overrides]

        run(context, arguments("alone"), outputs / "alone.log", None, outputs, rng)
        alone = outputs / "run" / "alone" / "ckpts" / "last.ckpt"
        while sum(len(trial.killed_after_steps) for trial in trials) < options.kills:
            tag = f"trial-{len(trials)}"
            folder, log = outputs / "run" / tag / "ckpts", outputs / f"{tag}.log"
            left = options.kills - sum(len(trial.killed_after_steps) for trial in trials)
            moments = range(options.every, options.steps - 1, options.every)
            moments = sorted(rng.sample(moments, min(options.kills_per_trial, left)))
            killed = []
            for moment in [*moments, None]:
                if run(context, [*arguments(tag), "--resume", "auto"], log, moment, folder, rng):
                    killed.append(last_step(folder))
            trials.append(Trial(killed, *compared(alone, folder / "last.ckpt")))
            print(trials[-1], flush=True)
    if options.out:
        save_results(options.out, table(trials, options), [asdict(trial) for trial in trials])
    return trials


def table(trials: list[Trial], options: argparse.Namespace) -> str:
    kills = sum(len(trial.killed_after_steps) for trial in trials)
    finished = sum(trial.final_step == options.steps for trial in trials)
    lines = [
        "# Killed and resumed",
        "",
        f"`python benchmarks/kill_and_resume.py --kills {options.kills} --steps {options.steps} --every {options.every} "
        f"--seed {options.seed} --out benchmarks/results/kill_and_resume`",
        "",
        f"{kills} times SIGKILL at a random moment of the small model's run ({options.steps} steps of "
        f"`imagedream-toybox.yaml` at 32 px, a checkpoint every {options.every}), then `--resume auto`: {finished} of "
        f"{len(trials)} runs ended at step {options.steps}. Differences are those of field, occupancy grid and optimiser "
        "at the end, against a run that nobody killed.",
        "",
        "| killed, the newest checkpoint being that of step | ended at | largest difference of a value | of the whole state |",
        "| --- | --- | --- | --- |",
    ]
    for trial in trials:
        steps = ", ".join(map(str, trial.killed_after_steps))
        lines.append(
            f"| {steps} | {trial.final_step} | {trial.largest_difference:.1e} | {trial.relative_difference:.1e} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
