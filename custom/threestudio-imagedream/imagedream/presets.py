"""Settings of the 3D run for cards of 8 to 80 GB: what fits, by a stated sum.

A preset only ever lowers what a config asks for. Its sum for a training step on CUDA, in GiB:

    weights + field (with gradient and optimiser) + context
    + the larger of   render kept + encoding kept + network,   render kept + encoding's peak,   render's peak

Weights are parameter counts times two bytes. The autoencoder's and the network's bytes are counted from the full-size
model's own tensors (`imagedream.workshop.training.memory`; the tests count again). The render's bytes are those of a sample times the
samples of a step, which depend on the object: `SAMPLES_THAT_COUNT` and the embedded host's bytes of a sample were
counted from the first steps of `configs/imagedream.yaml`; a real threestudio's are an assumption (see
`BYTES_PER_SAMPLE`). Nothing here has been measured on a GPU.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MIB, GIB = 2**20, 2**30

UNET_PARAMETERS = 941_672_900
VAE_PARAMETERS = 83_653_863
ENCODER_PARAMETERS = 986_109_441
BYTES_PER_WEIGHT = 2
"""Presets compute in half precision."""

NETWORK_BYTES_PER_GROUP = 83 * MIB
"""Peak of one call of the network for one group of five frames, with an attention kernel that keeps no weights."""
ENCODING_BYTES_PER_IMAGE = 380 * MIB
"""What the autoencoder keeps of an image of 256 pixels for the backward pass."""
CHECKPOINTED_BYTES_PER_IMAGE = 28 * MIB
"""The same with checkpointing."""
RECOMPUTED_BYTES_PER_IMAGE = 217 * MIB
"""What checkpointing computes again at a time in the backward pass; with slicing, for one image only."""
DECODING_BYTES_PER_IMAGE = 96 * MIB
"""Peak of decoding a view of 256 pixels."""
OFFLOADED_TOWER_BYTES = 124 * MIB
"""Of offloaded towers, what is on the device at a time: one block and what lies outside the blocks."""

FIELD_BYTES = 4 * 4 * 12_600_000
"""The hash grid of `configs/imagedream.yaml` in single precision: weights, gradient, two moments."""
CONTEXT_BYTES = GIB
"""CUDA's context, the libraries' workspaces and what the allocator loses: a guess."""

SAMPLES_THAT_COUNT = 0.13
"""Of the samples on a ray, those that are left after pruning: 65 of 512 for the ball that every object starts as."""
BYTES_PER_SAMPLE = {"embedded": 11_800, "threestudio": 2_500}
"""Peak bytes of a sample with analytic normals, in single precision. For a real threestudio with tiny-cuda-nn an
assumption: the released run (4 images of 256 pixels) fits an A100 of 80 GB, and users report that 40 GB may not do."""

SMALLEST_SIDE_PX = 128
"""Rays get fewer samples, down to a quarter, before renders of the last stage get smaller than this."""


@dataclass(frozen=True)
class Preset:
    """Upper limits of a run on cards of one size."""

    name: str
    card_gib: int
    images: int
    """Most images of a training step."""
    groups_per_call: int | None
    """Most groups that the network sees at once."""
    encoder: str
    """`keep` or `offload`, as in `imagedream.offloading.MemoryOptions`."""
    lean_encoding: bool
    """Autoencoder with slicing and checkpointing: a quarter more to compute, a fifth of the memory."""
    precision: str = "float16"

    @property
    def needed_bytes(self) -> int:
        """Free device memory that the preset is made for: cards never give all they have."""
        return int(0.9 * self.card_gib * GIB)

    @property
    def weight_bytes(self) -> int:
        """Of all weights that stay on the device."""
        parameters = UNET_PARAMETERS + VAE_PARAMETERS
        if self.encoder == "keep":
            return (parameters + ENCODER_PARAMETERS) * BYTES_PER_WEIGHT
        return parameters * BYTES_PER_WEIGHT + OFFLOADED_TOWER_BYTES

    def encoding_bytes(self, images: int) -> tuple[int, int]:
        """What encoding that many renders keeps, and its peak in the backward pass."""
        if not self.lean_encoding:
            return images * ENCODING_BYTES_PER_IMAGE, images * ENCODING_BYTES_PER_IMAGE
        kept = images * CHECKPOINTED_BYTES_PER_IMAGE
        return kept, kept + RECOMPUTED_BYTES_PER_IMAGE

    def network_bytes(self, groups: int) -> int:
        """Peak of the network for that many groups, each with and without condition."""
        return min(2 * groups, self.groups_per_call or 2 * groups) * NETWORK_BYTES_PER_GROUP

    def bytes_for_rendering(self, images: int, n_view: int = 4) -> int:
        """What is left for the samples of a step."""
        kept, peak = self.encoding_bytes(images)
        diffusion = max(kept + self.network_bytes(max(images // n_view, 1)), peak)
        return self.needed_bytes - CONTEXT_BYTES - FIELD_BYTES - self.weight_bytes - diffusion


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("8g", 8, images=4, groups_per_call=1, encoder="offload", lean_encoding=True),
        Preset("12g", 12, images=4, groups_per_call=1, encoder="offload", lean_encoding=True),
        Preset("16g", 16, images=4, groups_per_call=None, encoder="offload", lean_encoding=True),
        Preset("24g", 24, images=4, groups_per_call=None, encoder="keep", lean_encoding=False),
        Preset("40g", 40, images=8, groups_per_call=None, encoder="keep", lean_encoding=False),
        Preset("80g", 80, images=8, groups_per_call=None, encoder="keep", lean_encoding=False),
    )
}


def published_bytes(bytes_per_weight: int) -> int:
    """What sampling four views takes in a precision: all weights, and decoding, the largest of its activations."""
    weights = (UNET_PARAMETERS + VAE_PARAMETERS + ENCODER_PARAMETERS) * bytes_per_weight
    return weights + 4 * DECODING_BYTES_PER_IMAGE * bytes_per_weight // BYTES_PER_WEIGHT


@dataclass(frozen=True)
class DeviceMemory:
    """A CUDA device."""

    name: str
    free_bytes: int
    total_bytes: int


def largest_preset(free_bytes: int) -> Preset | None:
    """The preset of the largest card whose need is met; None if not even the smallest one's is."""
    fitting = [preset for preset in PRESETS.values() if preset.needed_bytes <= free_bytes]
    return max(fitting, key=lambda preset: preset.card_gib, default=None)


def choose_preset(memory: DeviceMemory) -> tuple[Preset, str]:
    """The preset that fits the device, and the reason, in words.

    Raises:
        ValueError: if none does.
    """
    free = f"{memory.free_bytes / GIB:.1f} of {memory.total_bytes / GIB:.1f} GiB are free on {memory.name}"
    preset = largest_preset(memory.free_bytes)
    if preset is None:
        least = PRESETS["8g"].needed_bytes / GIB
        raise ValueError(f"--preset auto: {free}, the smallest preset, 8g, needs {least:.1f} GiB")
    return preset, f"{free}, it needs {preset.needed_bytes / GIB:.1f}"


def device_memory(gpu: str) -> DeviceMemory | None:
    """The device that `--gpu` names, or None without CUDA; asked by a process of its own, which leaves nothing on it."""
    code = (
        "import json, sys, torch\n"
        "if torch.cuda.is_available():\n"
        "    json.dump([torch.cuda.get_device_name(), *torch.cuda.mem_get_info()], sys.stdout)"
    )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or gpu
    environment = {**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": visible}
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    return None if answer.returncode or not answer.stdout else DeviceMemory(*json.loads(answer.stdout))


def preset_settings(preset: Preset, config: Mapping[str, Any], host: str) -> dict[str, Any]:
    """What a config must say instead to fit a preset: keys with dots -> values.

    Args:
        preset: the limits.
        config: the whole config of a run, resolved.
        host: `embedded` or `threestudio`, whose renderers need different memory.

    Raises:
        ValueError: if the config is not one of this extension's runs.
    """
    kinds = config.get("data_type"), (config.get("system") or {}).get("guidance_type")
    if kinds != ("imagedream-camera-datamodule", "imagedream-guidance"):
        raise ValueError(
            f"--preset is for imagedream-camera-datamodule and imagedream-guidance, but this config has {kinds[0]} and {kinds[1]}"
        )
    data, system = config["data"], config["system"]
    n_view = data.get("n_view", 4)
    batch, height, width = (_as_list(data[key]) for key in ("batch_size", "height", "width"))
    samples = (system.get("renderer") or {}).get("num_samples_per_ray", 512)

    images = [min(size, max(preset.images // n_view, 1) * n_view) for size in batch]
    for divisor in (1, 2, 4):
        rays = [
            preset.bytes_for_rendering(count, n_view)
            / (BYTES_PER_SAMPLE[host] * SAMPLES_THAT_COUNT * samples / divisor)
            for count in images
        ]
        scales = [
            min(1.0, (most / (count * h * w)) ** 0.5)
            for most, count, h, w in zip(rays, images, height, width, strict=True)
        ]
        if min(height[-1], width[-1]) * scales[-1] >= min(height[-1], width[-1], SMALLEST_SIDE_PX):
            break
    settings = {
        "data.batch_size": images,
        "data.height": [_scaled(side, scale) for side, scale in zip(height, scales, strict=True)],
        "data.width": [_scaled(side, scale) for side, scale in zip(width, scales, strict=True)],
        "system.renderer.num_samples_per_ray": samples // divisor,
    }
    asked = {
        "data.batch_size": batch,
        "data.height": height,
        "data.width": width,
        "system.renderer.num_samples_per_ray": samples,
    }
    changed = {
        key: value[0] if isinstance(value, list) and len(value) == 1 else value
        for key, value in settings.items()
        if value != asked[key]
    }
    return {
        **changed,
        "system.guidance.precision": preset.precision,
        **(
            {}
            if preset.groups_per_call is None
            else {"system.guidance.groups_per_call": preset.groups_per_call}
        ),
        "system.guidance.memory.encoder": preset.encoder,
        "system.guidance.memory.vae_slicing": preset.lean_encoding,
        "system.guidance.memory.vae_checkpointing": preset.lean_encoding,
    }


def _as_list(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


def _scaled(side: int, scale: float) -> int:
    """A smaller side is a multiple of 16 pixels."""
    return side if scale == 1 else max(16, int(side * scale) // 16 * 16)


def overrides(settings: Mapping[str, Any]) -> list[str]:
    """The settings as `key=value` for a command line of threestudio."""
    return [
        f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in settings.items()
    ]


def explain(preset: Preset, reason: str) -> list[str]:
    """The choice in two lines."""
    towers = "stay on the device" if preset.encoder == "keep" else "wait on the CPU"
    return [
        f"{preset.name} ({reason})",
        f"{preset.weight_bytes / GIB:.1f} GiB of weights in {preset.precision}, the towers {towers}; "
        "computed, not measured on a GPU",
    ]
