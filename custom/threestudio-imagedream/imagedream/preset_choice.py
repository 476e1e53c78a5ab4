"""`--preset NAME`: which of the presets of quality and memory is meant, as overrides of a config."""

from collections.abc import Mapping
from typing import Any

from imagedream.presets import PRESETS, choose_preset, device_memory, explain, overrides, preset_settings
from imagedream.quality_presets import QUALITIES, choose_for_cpu, free_memory_bytes, quality_settings


def choose(name: str, config: Mapping[str, Any], host: str, gpu: str) -> tuple[list[str], list[str]]:
    """What a preset changes in a config.

    Args:
        name: of a preset of quality or memory, or `auto`: on CUDA the memory preset that fits what is free on the
            device; on a CPU the quality for which its free memory is enough.
        config: the whole config of a run, resolved.
        host: `embedded` or `threestudio`.
        gpu: what `--gpu` names.

    Returns:
        The choice and its reason as lines for people, and the overrides.

    Raises:
        ValueError: for an unknown name, a config that it does not fit, or too little memory.
    """
    reason = "as asked"
    if name == "auto":
        memory = device_memory(gpu)
        if memory is None:
            quality, reason = choose_for_cpu(free_memory_bytes())
            name = quality.name
        else:
            preset, reason = choose_preset(memory)
            name = preset.name
    if name in QUALITIES:
        quality = QUALITIES[name]
        return [f"{name} ({reason}): {quality.reason}"], overrides(quality_settings(quality, config))
    if name in PRESETS:
        preset = PRESETS[name]
        return explain(preset, reason), overrides(preset_settings(preset, config, host))
    raise ValueError(f"--preset is {name}, must be auto or one of {', '.join([*QUALITIES, *PRESETS])}")
