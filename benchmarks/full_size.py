"""The full-size model with random weights: what building, sampling and distilling cost here, in seconds and memory.

    python benchmarks/full_size.py [--precisions float32 bfloat16 float16] [--out benchmarks/results/full_size]

For each precision one model is built and measured without any memory option, then with each. Only one model is in
memory at a time. Phases, all at the published sizes (256 pixels, 32x32 latents, 4 views and a prompt frame):

    encode    caption, negative caption and picture, once a prompt and background colour
    step      one step of the sampler for one group of views with guidance; a group of views is `encode`, 50 steps, `decode`
    decode    latents of four views -> pixels
    distil N  one distillation step for N groups: renders -> latents with gradient, guidance, gradient of the renders

A phase's memory is the most that was alive at once besides weights and what was there before: on CUDA what the allocator
says, on a CPU the bytes of PyTorch's tensors (`imagedream.workshop.training.memory`). Seconds are the median of `--repeats`; on a CPU,
where a phase takes a minute, of one run, and they are the seconds that processors worked for it, which other programs
disturb less than the clock's. "of the matrix rate" is the phase's operations over its seconds, over what a large matrix
product reaches in the same precision in the same run. Ratios are to the run without options in the same precision. An
option is measured in the phases that it touches.
"""

import gc
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "custom" / "threestudio-imagedream"), str(ROOT)]

import psutil  # noqa: E402
import torch  # noqa: E402
import tyro  # noqa: E402

from benchmarks.random_weights import empty_pipeline, fake_pipeline, random_pipeline  # noqa: E402
from imagedream import checkpoints  # noqa: E402
from imagedream.cameras import camera_condition, look_at_origin, orthogonal_azimuths  # noqa: E402
from imagedream.distillation import image_prompt_score_distillation  # noqa: E402
from imagedream.memory_options import PRECISIONS, MemoryOptions, apply_memory_options  # noqa: E402
from imagedream.model import Condition, predict_noise  # noqa: E402
from imagedream.pipeline import ImageDreamPipeline  # noqa: E402
from imagedream.workshop.evaluation.tables import markdown_table, save_results  # noqa: E402
from imagedream.workshop.training.architectures import Architecture, architecture_of, published_architecture  # noqa: E402
from imagedream.workshop.training.memory import memory_use, operations  # noqa: E402

GIB = 2**30
GUIDANCE_SCALE = 5.0
STEPS = 50

OPTIONS: dict[str, MemoryOptions] = {
    "none": MemoryOptions(),
    "vae slicing": MemoryOptions(vae_slicing=True),
    "vae checkpointing": MemoryOptions(vae_checkpointing=True),
    "vae slicing and checkpointing": MemoryOptions(vae_slicing=True, vae_checkpointing=True),
    "compile": MemoryOptions(compile=True),
    "encoder offload": MemoryOptions(encoder="offload"),
}
"""In this order, because the last changes the encoder, which all cases share."""

TOUCHES = {"vae": ("decode", "distil"), "encoder": ("encode",)}
"""Phases by the first word of an option; other options touch all but `encode`."""

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    precisions: tuple[Precision, ...] = ("float32", "bfloat16", "float16")
    options: tuple[str, ...] = tuple(OPTIONS)
    """Names of memory options; `none` always comes first."""
    groups: tuple[int, ...] = ()
    """Groups of views in a distillation step; by default 1 on a CPU and, as in the three stages of the paper, 2 and 1."""
    model: Literal["published", "toybox"] = "published"
    """`toybox` has the architecture of the small model, to try the benchmark itself."""
    device: str = "auto"
    repeats: int = 0
    """Runs of a phase; 0 is 5 on CUDA and 1 on a CPU. On CUDA there is one more, to warm up."""
    free_encoder: bool = False
    """Give the encoder's memory back when the encoding has been measured, for machines that are short of it."""
    limit_seconds: float = 900.0
    """Precisions in which a sampling step would take longer, by the rate of a matrix product, are left out."""
    seed: int = 0
    out: Path | None = None
    """Write OUT.md and OUT.json."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.options if name not in OPTIONS]
        if unknown:
            raise ValueError(f"--options has {unknown[0]!r}, must be of {', '.join(map(repr, OPTIONS))}")


@dataclass(frozen=True)
class Measured:
    """One phase."""

    seconds: float
    peak_bytes: int | None
    """None where it cannot be told."""


class Phases:
    """What is measured, as functions without arguments, on a pipeline."""

    def __init__(self, pipeline: ImageDreamPipeline, condition: tuple[Condition, Condition] | None) -> None:
        self.pipeline = pipeline
        device = pipeline.device
        generator = torch.Generator().manual_seed(0)
        self.picture = torch.rand(4, pipeline.image_size, pipeline.image_size, generator=generator).to(device)
        matrices = look_at_origin(torch.tensor(5.0), orthogonal_azimuths(0.0), torch.tensor(1.0))
        self.cameras = camera_condition(matrices)[None].to(device)
        self.noise = torch.randn(1, 4, *pipeline.unet.latent_shape, generator=generator).to(device)
        self.condition, self.unconditional = condition or self.encode()

    @torch.no_grad()
    def encode(self) -> tuple[Condition, Condition]:
        """The condition of a prompt, and "no condition"."""
        background = torch.ones(3, device=self.pipeline.device)
        condition = self.pipeline.encode_condition(self.picture, "a photo of an astronaut", background)
        negative = self.pipeline.encoder.encode_text(["ugly, blurry"]).to(self.pipeline.unet.dtype)
        return condition, condition.without_image().with_text(negative)

    @torch.no_grad()
    def step(self) -> torch.Tensor:
        """Latents of a group of views after one step of the sampler."""
        dtype = self.pipeline.unet.dtype
        return self.pipeline.denoise(
            self.condition,
            self.unconditional,
            self.cameras.to(dtype),
            self.noise.to(dtype),
            GUIDANCE_SCALE,
            num_inference_steps=1,
        )

    @torch.no_grad()
    def decode(self) -> torch.Tensor:
        """Pixels of four views."""
        return self.pipeline.decode_latents(self.noise[0])

    def distil(self, groups: int) -> torch.Tensor:
        """The gradient of the renders of some groups."""
        size = self.pipeline.image_size
        renders = torch.full(
            (4 * groups, 3, size, size), 0.5, device=self.pipeline.device, requires_grad=True
        )
        latents = self.pipeline.encode_images(renders).float().unflatten(0, (groups, 4))
        result = image_prompt_score_distillation(
            self.pipeline.unet,
            self.pipeline.scheduler,
            latents,
            self.cameras.expand(groups, -1, -1),
            self.condition,
            self.unconditional,
            timesteps=torch.full((groups,), 500, device=renders.device),
            guidance_scale=GUIDANCE_SCALE,
            generator=torch.Generator().manual_seed(0),
        )
        result.loss.backward()
        return renders.grad


def measure(run: Callable[[], Any], device: torch.device, repeats: int, compiled: bool = False) -> Measured:
    """Seconds and peak memory of a phase."""
    if device.type == "cuda":
        run()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        seconds = [_seconds(run, device) for _ in range(repeats or 5)]
        return Measured(statistics.median(seconds), torch.cuda.max_memory_allocated(device) - before)
    if compiled:  # the tensors of compiled code are not PyTorch's to count
        run()
        return Measured(statistics.median(_seconds(run, device) for _ in range(repeats or 1)), None)
    counted = []
    seconds = [_seconds(lambda: counted.append(memory_use(run)), device) for _ in range(repeats or 1)]
    return Measured(statistics.median(seconds), counted[0].peak_bytes)


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cpu":
        start = time.process_time()
        run()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a matrix product, of the largest size that takes less than a second."""
    rate = 0.0
    for size in (256, 512, 1024, 2048, 4096, 8192):
        left = torch.ones(size, size, device=device, dtype=dtype)
        seconds = min(_seconds(lambda left=left: left @ left, device) for _ in range(3))
        rate = 2 * size**3 / max(seconds, 1e-9)
        if 8 * seconds > 1:
            break
    return rate


def phase_operations(architecture: Architecture, groups: tuple[int, ...]) -> dict[str, int]:
    """Floating point operations of each phase; the same in every precision."""
    with fake_pipeline(architecture, torch.float32) as pipeline:
        size, shape = pipeline.image_size, pipeline.unet.latent_shape
        pictures = torch.empty(4, 3, size, size, requires_grad=True)
        picture = torch.empty(1, 3, size, size)
        with torch.no_grad():
            features = pipeline.image_features(picture)
            tokens = pipeline.encoder.encode_text(["", ""])
            noisy, cameras = torch.empty(1, 4, *shape), torch.empty(1, 4, 16)
            prompt = torch.empty(1, 1, *shape) if pipeline.unet.uses_prompt_frame else None
            condition = (tokens[:1], features, prompt)
            network = operations(
                lambda: predict_noise(pipeline.unet, noisy, torch.tensor([1]), cameras, *condition)
            )
            encode = operations(
                lambda: (
                    pipeline.encoder.encode_text(["", ""]),
                    pipeline.image_features(picture),
                    pipeline.encode_images(picture),
                )
            )
            decode = operations(lambda: pipeline.decode_latents(noisy[0]))
        encode_with_gradient = operations(lambda: pipeline.encode_images(pictures).sum().backward())
    # guidance takes the network twice
    distil = {f"distil {count}": count * (2 * network + encode_with_gradient) for count in groups}
    return {"encode": encode, "step": 2 * network, "decode": decode, **distil}


def with_same_weights(pipeline: ImageDreamPipeline, architecture: Architecture) -> ImageDreamPipeline:
    """Another pipeline of the same weights, on which other options can be switched on."""
    fresh = empty_pipeline(architecture, pipeline.unet.dtype)
    for part in ("unet", "vae"):
        getattr(fresh, part).load_state_dict(getattr(pipeline, part).state_dict(), assign=True)
    fresh.register_modules(encoder=pipeline.encoder)
    fresh.set_progress_bar_config(disable=True)
    return fresh


def weight_bytes(pipeline: ImageDreamPipeline) -> int:
    """Bytes of the weights on the pipeline's device."""
    parts = (pipeline.unet, pipeline.vae, pipeline.encoder)
    weights = [weight for part in parts for weight in part.parameters()]
    return sum(weight.nbytes for weight in weights if weight.device == pipeline.device)


def measure_precision(
    name: str, architecture: Architecture, device: torch.device, settings: Settings, counted: dict[str, int]
) -> Iterator[dict]:
    """One record for each memory option."""
    dtype = PRECISIONS[name]
    counts = [int(phase.split()[1]) for phase in counted if phase.startswith("distil")]
    rate = matrix_rate(device, dtype)
    record = {"precision": name, "matrix_rate": rate}
    expected = counted["step"] / rate
    if expected > settings.limit_seconds:
        reason = (
            f"a sampling step would take {expected:.0f} s at {rate / 1e9:.2g} billion operations a second"
        )
        yield {**record, "option": "none", "skipped": reason}
        return
    start = time.perf_counter()
    pipeline = random_pipeline(architecture, seed=settings.seed, dtype=dtype, device=device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    record["build_seconds"] = time.perf_counter() - start
    phases = Phases(pipeline, None)
    encode = measure(phases.encode, device, settings.repeats)
    record["weight_bytes"] = weight_bytes(pipeline)
    condition = phases.condition, phases.unconditional
    if settings.free_encoder:
        pipeline.encoder.clip = None
    for option in (
        "none",
        *(option for option in OPTIONS if option in settings.options and option != "none"),
    ):
        record = {**record, "option": option}
        options = OPTIONS[option]
        if options.encoder != "keep" and (device.type == "cpu" or settings.free_encoder):
            yield {**record, "skipped": "the encoder is on the CPU or freed as it is"}
            continue
        del phases
        pipeline = with_same_weights(pipeline, architecture)
        phases = Phases(pipeline, condition)
        try:
            apply_memory_options(pipeline, options)
        except ValueError as error:
            yield {**record, "skipped": str(error)}
            continue
        measured = {"encode": encode} if option == "none" else {}
        runs = {"encode": phases.encode, "step": phases.step, "decode": phases.decode}
        runs |= {f"distil {count}": partial(phases.distil, count) for count in counts}
        touched = TOUCHES.get(option.split()[0], ("step", "decode", "distil"))
        for phase, run in runs.items():
            if phase.split()[0] in touched:
                gc.collect()
                measured[phase] = measure(run, device, settings.repeats, options.compile)
        record["weight_bytes"] = (
            weight_bytes(pipeline) if options.encoder != "keep" else record["weight_bytes"]
        )
        yield {**record, "phases": {phase: asdict(result) for phase, result in measured.items()}}


def option_row(record: dict, baseline: dict) -> dict[str, Any]:
    """A line of the table of one precision: seconds and peak of each phase, with ratios to the run without options."""
    row: dict[str, Any] = {"option": record["option"], "weights GiB": round(record["weight_bytes"] / GIB, 2)}
    for phase in baseline["phases"]:
        result = record["phases"].get(phase)
        row[f"{phase} s"] = result and _with_ratio(result, baseline["phases"][phase], "seconds", 1)
        row[f"{phase} GiB"] = result and _with_ratio(result, baseline["phases"][phase], "peak_bytes", GIB)
    return row


def _with_ratio(result: dict, baseline: dict, key: str, unit: float) -> str | None:
    if result[key] is None:
        return None
    text = f"{result[key] / unit:.3g}"
    if result is baseline or not baseline[key]:
        return text
    return f"{text} (x{result[key] / baseline[key]:.2f})"


def summary_row(record: dict, counted: dict[str, int]) -> dict[str, Any]:
    """A line of the first table, without options."""
    if "skipped" in record:
        return {"precision": record["precision"], "build s": f"skipped: {record['skipped']}"}
    phases = record["phases"]
    seconds = {phase: result["seconds"] for phase, result in phases.items()}
    row = {
        "precision": record["precision"],
        "build s": record["build_seconds"],
        "weights GiB": record["weight_bytes"] / GIB,
        f"group of views s ({STEPS} steps)": seconds["encode"] + STEPS * seconds["step"] + seconds["decode"],
    }
    for phase in phases:
        if phase.startswith("distil"):
            row[f"{phase} s"] = seconds[phase]
    row["matrix product Top/s"] = record["matrix_rate"] / 1e12
    for phase in phases:
        if phase == "step" or phase.startswith("distil"):
            row[f"{phase} of the matrix rate"] = counted[phase] / seconds[phase] / record["matrix_rate"]
    return row


def machine(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory / GIB
        return f"{torch.cuda.get_device_name(device)}, {total:.0f} GiB, CUDA {torch.version.cuda}"
    names = [line for line in _cpu_lines() if line.startswith("model name")]
    name = names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"CPU {name}, {torch.get_num_threads()} threads, load average {load} at the end"


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def report(records: list[dict], counted: dict[str, int], settings: Settings, device: torch.device) -> str:
    """The tables as Markdown."""
    command = shlex.join(["python", "benchmarks/full_size.py", *sys.argv[1:]])
    peak = psutil.Process().memory_info().rss / GIB
    lines = [
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {machine(device)}, torch {torch.__version__}; "
        f"{settings.model} architecture with random weights, the process holds {peak:.1f} GiB at the end",
    ]
    baselines = {record["precision"]: record for record in records if record["option"] == "none"}
    lines.append(markdown_table([summary_row(record, counted) for record in baselines.values()]))
    work = [{"phase": phase, "Top": count / 1e12} for phase, count in counted.items()]
    lines.append(markdown_table(work))
    for name, baseline in baselines.items():
        if "skipped" in baseline:
            continue
        here = [record for record in records if record["precision"] == name]
        rows = [option_row(record, baseline) for record in here if "skipped" not in record]
        lines.append(f"### {name}\n\n{markdown_table(rows)}")
        lines += [f"{record['option']}: {record['skipped']}" for record in here if "skipped" in record]
    return "\n\n".join(lines)


def main(settings: Settings) -> int:
    """Measure, print, write."""
    device = settings.device if settings.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    groups = settings.groups or ((2, 1) if device.type == "cuda" else (1,))
    architecture = (
        published_architecture()
        if settings.model == "published"
        else architecture_of(checkpoints.load("toybox"))
    )
    counted = phase_operations(architecture, groups)
    records = []
    for name in settings.precisions:
        for record in measure_precision(name, architecture, device, settings, counted):
            records.append(record)
            told = record.get("skipped") or ", ".join(
                f"{phase} {result['seconds']:.3g} s" for phase, result in record["phases"].items()
            )
            print(f"{name}, {record['option']}: {told}", flush=True)
        gc.collect()
    text = report(records, counted, settings, device)
    print("\n" + text)
    if settings.out is not None:
        told = {key: value for key, value in asdict(settings).items() if key != "out"}
        content = {"settings": told, "machine": machine(device), "operations": counted, "records": records}
        save_results(settings.out, f"# The full-size model with random weights\n\n{text}", content)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
