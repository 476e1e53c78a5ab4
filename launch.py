"""The way in: the command line of threestudio, run by a real threestudio where there is one.

    python launch.py --config imagedream-toybox.yaml --train system.prompt_processor.image_path=picture.png

A real threestudio is used when `--threestudio DIR` or $THREESTUDIO_ROOT names one, or `import threestudio` finds one;
otherwise the embedded host, which needs neither CUDA nor threestudio. Configs and commands of the official ImageDream
fork run too.

One flag is added to threestudio's, `--preset NAME`: it becomes ordinary overrides, which are printed; overrides that are
given win over it.
"""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

PROJECT = Path(__file__).resolve().parent
EXTENSION = PROJECT / "custom" / "threestudio-imagedream"

PRESET_HELP = """\
--preset NAME  preview, default or paper: how long a run takes and how good it gets; 8g, 12g, 16g, 24g, 40g or 80g: the
               config turned down to what a CUDA card of that memory holds; auto: chosen from the memory that is free;
               preview+8g: both"""


def find_threestudio(folder: str | None) -> tuple[Path, str] | None:
    """A real threestudio and what named it: the given folder, $THREESTUDIO_ROOT, or the importable package."""
    for source, named in (
        ("--threestudio", folder),
        ("THREESTUDIO_ROOT", os.environ.get("THREESTUDIO_ROOT")),
    ):
        if named:
            return Path(named).resolve(), f"{source}={named}"
    spec = importlib.util.find_spec("threestudio")
    if spec is None or spec.origin is None:
        return None
    found = Path(spec.origin).resolve().parents[1]
    return (found, str(found)) if (found / "launch.py").is_file() else None


def absolute_paths(overrides: list[str]) -> list[str]:
    """Overrides whose value is a file or folder here, or a list of them, made independent of threestudio's own folder."""
    result = []
    for override in overrides:
        key, _, value = override.partition("=")
        if value.startswith("[") and value.endswith("]"):
            items = [_absolute(key, item.strip()) for item in value[1:-1].split(",")]
            result.append(f"{key}=[{','.join(items)}]")
        else:
            result.append(f"{key}={_absolute(key, value)}")
    return result


def _absolute(key: str, value: str) -> str:
    looks_like_a_path = "/" in value or "." in value or key.endswith(("_path", "_paths", "weights", "resume"))
    return str(Path(value).resolve()) if value and looks_like_a_path and Path(value).exists() else value


def registered_names(cfg) -> set[str]:
    """All that a config looks up in threestudio's registry: values of keys that end in `_type`."""
    names: set[str] = set()
    for key, value in cfg.items():
        if isinstance(value, Mapping):
            names |= registered_names(value)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            names |= {name for part in value if isinstance(part, Mapping) for name in registered_names(part)}
        elif str(key).endswith("_type") and isinstance(value, str):
            names |= {part for name in value.split(":") for part in name.split(",")}
    return names


def fork_overrides(cfg) -> list[str]:
    """Overrides that turn a config of the official ImageDream fork into one that runs unchanged otherwise.

    The fork changed threestudio's own modules, so two of its names mean something else in threestudio itself; the
    extension has modules that do what the fork's do under names of their own.
    """
    system = cfg.get("system") or {}
    renamed = {}
    if system.get("guidance_type") == "multiview-diffusion-guidance":
        if system.get("prompt_processor_type") == "stable-diffusion-prompt-processor":
            renamed["prompt_processor_type"] = "imagedream-fork-prompt-processor"
        environment = "neural-environment-map-background"
        if system.get("background_type") == environment and "share_aug_bg" in (
            system.get("background") or {}
        ):
            renamed["background_type"] = "imagedream-fork-background"
    return [f"system.{key}={name}" for key, name in renamed.items()]


def take_preset(argv: list[str]) -> tuple[list[str], str | None]:
    """The command line without `--preset NAME`, and the name."""
    rest, name = [], None
    arguments = iter(argv)
    for argument in arguments:
        if argument == "--preset":
            name = next(arguments, "")
        elif argument.startswith("--preset="):
            name = argument.partition("=")[2]
        else:
            rest.append(argument)
    return rest, name


def preset_overrides(names: str, arguments, cfg, host: str, read_config) -> list[str]:
    """Presets, joined by +, as overrides, without those that are given; says what it chose and why."""
    sys.path.append(str(EXTENSION))
    from imagedream.preset_choice import choose

    given = {override.partition("=")[0] for override in arguments.overrides}
    result: list[str] = []
    for name in names.split("+"):
        lines, found = choose(name, cfg, host, arguments.gpu)
        found = [override for override in found if override.partition("=")[0] not in given]
        result += found
        sys.stdout.write("".join(f"preset: {line}\n" for line in [*lines, *filter(None, [" ".join(found)])]))
        cfg = read_config(replace(arguments, overrides=[*result, *arguments.overrides]))
    return result


def run_in_threestudio(folder: Path, arguments, launcher, cfg) -> int:
    """Run threestudio's own launch.py; training is followed by an export, as everywhere else."""
    from datetime import datetime

    import real_threestudio

    for note in real_threestudio.check(folder, registered_names(cfg)):
        sys.stderr.write(f"note: {note}\n")
    for entry in real_threestudio.registering(folder, "imagedream-system"):
        if entry.name != EXTENSION.name and entry.resolve() != EXTENSION:
            raise ValueError(
                f"imagedream-system is registered twice: by {entry} and by {EXTENSION}; rename one to ..._disabled"
            )
        if entry.resolve() != EXTENSION:
            sys.stderr.write(f"note: using the extension that is already at {entry}\n")

    from threestudio.launching.messages import set_up_logging
    from threestudio.launching.resuming import newest_checkpoint, resume_automatically, set_aside

    set_up_logging(arguments.verbose)
    if arguments.estimate:
        raise ValueError(
            "--estimate works in the embedded host only; leave --threestudio and THREESTUDIO_ROOT out"
        )
    root = Path(cfg.get("exp_root_dir", "outputs")).resolve()
    cfg.exp_root_dir = str(root)
    resume_automatically(cfg)
    if cfg.get("resume") is not None:
        real_threestudio.check_checkpoint(cfg.resume)
    given = [override for override in arguments.overrides if not override.startswith("resume=")]
    overrides = [*absolute_paths(given), f"exp_root_dir={root}"]
    timestamp = cfg.get("timestamp")
    if timestamp is None:
        timestamp = datetime.now().strftime("@%Y%m%d-%H%M%S") if cfg.get("use_timestamp", True) else ""
    overrides.append(f"timestamp='{timestamp}'" if timestamp else "use_timestamp=false")
    resume = [] if cfg.get("resume") is None else [f"resume={Path(cfg.resume).resolve()}"]
    flags = ["--gpu", arguments.gpu] + (["--verbose"] if arguments.verbose else [])
    command = [sys.executable, "launch.py", "--config", str(arguments.config), *flags]
    cache = Path(".threestudio_cache").resolve()
    trial = root / str(cfg.get("name", "default")) / f"{cfg.get('tag', '')}{timestamp}"
    if arguments.mode == "train" and not resume:
        set_aside(trial)
    with real_threestudio.working_folder(folder, EXTENSION, cache) as working_folder:
        code = call([*command, f"--{arguments.mode}", *overrides, *resume], working_folder)
        if code or arguments.mode != "train":
            return code
        last = newest_checkpoint(trial / "ckpts") or trial / "ckpts" / "last.ckpt"
        return call([*command, "--export", *overrides, f"resume={last}"], working_folder)


def call(command: list[str], folder: Path) -> int:
    """Run a program that sees to Ctrl-C and SIGTERM itself, to which they are passed on; its exit code."""
    process = subprocess.Popen(command, cwd=folder, start_new_session=True)
    passed_on = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, lambda n, _: process.send_signal(n)) for number in passed_on}
    try:
        return process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def problem(argv: list[str]) -> str | None:
    """What is wrong with a command line and its config, as far as can be seen without loading anything."""
    sys.path.insert(0, str(PROJECT / "embedded"))
    from threestudio.launching.arguments import parse_arguments, read_config
    from threestudio.launching.messages import is_user_error, one_line

    try:
        read_config(parse_arguments(take_preset(argv)[0]))
    except Exception as error:
        if not is_user_error(error):
            raise
        return one_line(error)
    return None


def main(argv: list[str]) -> int:
    """Choose the host, say which, run it."""
    argv, preset = take_preset(argv)
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(f"{PRESET_HELP}\n\n")
    named = [b for a, b in pairwise(argv) if a == "--threestudio"]
    named += [a.partition("=")[2] for a in argv if a.startswith("--threestudio=")]
    found = find_threestudio(named[-1] if named else None)
    sys.path.insert(0, str(PROJECT / "embedded"))
    import real_threestudio

    from threestudio import launcher

    try:
        arguments = launcher.parse_arguments(argv)
        where = f"threestudio at {found[0]}" if found else "embedded threestudio (plain PyTorch)"
        sys.stdout.write(f"host: {where}\n")
        sys.stdout.flush()
        note = real_threestudio.check_folder(*found) if found else None
        cfg = launcher.read_config(arguments)
        renamed = fork_overrides(cfg)
        if renamed:
            sys.stderr.write(f"note: a config of the official ImageDream fork; added {' '.join(renamed)}\n")
            arguments = replace(arguments, overrides=[*arguments.overrides, *renamed])
            cfg = launcher.read_config(arguments)
        if preset is not None:
            host = "threestudio" if found else "embedded"
            turned_down = preset_overrides(preset, arguments, cfg, host, launcher.read_config)
            argv = [*turned_down, *argv]
            arguments = replace(arguments, overrides=[*turned_down, *arguments.overrides])
            cfg = launcher.read_config(arguments)
        sys.stdout.flush()
        if note:
            sys.stderr.write(f"note: {note}\n")
        if found is None:
            return launcher.main([*argv, *renamed])
        return run_in_threestudio(found[0], arguments, launcher, cfg)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not launcher.is_user_error(error):
            raise
        return launcher.report_error(error, verbose="--verbose" in argv)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
