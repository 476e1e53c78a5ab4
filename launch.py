"""The way in: the command line of threestudio, run by a real threestudio where there is one.

    python launch.py --config imagedream-toybox.yaml --train system.prompt_processor.image_path=picture.png

A real threestudio is used when `--threestudio DIR` or $THREESTUDIO_ROOT names one, or `import threestudio` finds one;
otherwise the embedded host, which needs neither CUDA nor threestudio. Configs and commands of the official ImageDream
fork run too.

A config may be a change of another (`base:`), and one flag is added to threestudio's, `--preset NAME`. Both are merged into
one plain config file for the host; what a preset sets is printed, and overrides that are given win over it.
"""

import ctypes
import importlib.util
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path

PROJECT = Path(__file__).resolve().parent
EXTENSION = PROJECT / "custom" / "threestudio-imagedream"
INSTALLED = importlib.util.find_spec("threestudio")  # before the embedded one hides it
sys.path.insert(0, str(PROJECT / "embedded"))
sys.path.append(str(EXTENSION))

import real_threestudio  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

from imagedream.runs.disk_space import LEAST_FREE_BYTES, check_folder  # noqa: E402
from imagedream.runs.host_ranges import check_experiment  # noqa: E402
from imagedream.runs.locks import temporary_folder  # noqa: E402
from imagedream.runs.settings import (  # noqa: E402
    apply_presets,
    as_typed,
    read_override,
    read_presets,
    read_with_bases,
    with_home,
    write_override,
)
from imagedream.runs.trial_names import own_overrides, short_tag  # noqa: E402
from imagedream.runs.user_errors import Quit, is_user_error, one_line, report_error  # noqa: E402
from threestudio.launching.arguments import parse_arguments, read_config  # noqa: E402
from threestudio.launching.messages import set_up_logging  # noqa: E402


def find_threestudio(folder: str | None) -> tuple[Path, str] | None:
    """A real threestudio and what named it: the given folder, $THREESTUDIO_ROOT, or the importable package."""
    for source, named in (
        ("--threestudio", folder),
        ("THREESTUDIO_ROOT", os.environ.get("THREESTUDIO_ROOT")),
    ):
        if named:
            return Path(os.path.expanduser(named)).resolve(), f"{source}={named}"
    if INSTALLED is None or INSTALLED.origin is None:
        return None
    found = Path(INSTALLED.origin).resolve().parents[1]
    return (found, str(found)) if (found / "launch.py").is_file() else None


def absolute_paths(overrides: list[str]) -> list[str]:
    """Overrides whose value is a file or folder here, or a list of them, made independent of threestudio's own folder."""
    return [write_override(key, _absolute(key, value)) for key, value in map(read_override, overrides)]


def _absolute(key: str, value):
    if isinstance(value, list):
        return [_absolute(key, item) for item in value]
    if not isinstance(value, str) or not value:
        return value
    looks_like_a_path = "/" in value or "." in value or key.endswith(("_path", "_paths", "weights", "resume"))
    return str(Path(value).resolve()) if looks_like_a_path and Path(value).exists() else value


def registered_names(cfg) -> set[str]:
    """All that a config looks up in threestudio's registry: values of keys that end in `_type`."""
    return {
        name
        for value in re.findall(r"_type: (\S+)", OmegaConf.to_yaml(cfg))
        for name in re.split("[:,]", value)
    }


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


def with_one_config(arguments, host: str, folder: Path):
    """The arguments with overrides as omegaconf reads them, their config a file in `folder`: bases and presets merged.

    A config without either stays as it is. Says what each preset sets and why, overrides that are given left out.
    """
    from threestudio.utils.config import ExperimentConfig

    overrides = [as_typed(override, ExperimentConfig) for override in arguments.overrides]
    overrides += own_overrides(arguments.config, [key for key, _ in map(read_override, overrides)])
    arguments = replace(arguments, overrides=overrides)
    files = read_with_bases(arguments.config)
    names = [] if arguments.preset is None else arguments.preset.split("+")
    if not names and len(files) == 1 and with_home(content := files[arguments.config]) == content:
        return arguments
    presets = read_presets(PROJECT / "configs" / "presets")
    settings, chosen = apply_presets(files, names, presets, host, arguments.gpu)
    given = {override.partition("=")[0] for override in arguments.overrides}
    for about, changes in chosen:
        sys.stdout.write(f"preset: {about}\n")
        words = [f"{key}={_as_yaml(value)}" for key, value in changes.items() if key not in given]
        sys.stdout.write(f"preset: {' '.join(words)}\n" if words else "")
    path = folder / arguments.config.name
    OmegaConf.save(OmegaConf.create(with_home(OmegaConf.to_container(settings))), path)
    return replace(arguments, config=path)


def _as_yaml(value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_checked_config(arguments):
    """The merged config, its numbers in their ranges."""
    cfg = read_config(arguments)
    check_experiment(OmegaConf.to_container(cfg))
    return cfg


def run_in_threestudio(folder: Path, arguments, cfg, temporary: Path) -> int:
    """Run threestudio's own launch.py; training is followed by an export, as everywhere else."""
    from imagedream.runs.trial_folder import at_work

    for note in real_threestudio.check(folder, registered_names(cfg)):
        sys.stderr.write(f"note: {note}\n")
    for entry in real_threestudio.registering(folder, "imagedream-system"):
        if entry.name != EXTENSION.name and entry.resolve() != EXTENSION:
            raise ValueError(
                f"imagedream-system is registered twice: by {entry} and by {EXTENSION}; rename one to ..._disabled"
            )
        if entry.resolve() != EXTENSION:
            sys.stderr.write(f"note: using the extension that is already at {entry}\n")
    if cfg.get("resume") is not None:
        real_threestudio.check_checkpoint(cfg.resume)

    root = Path(cfg.get("exp_root_dir", "outputs")).resolve()
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
    with (
        at_work(trial, cfg, arguments.mode),
        real_threestudio.working_folder(folder, EXTENSION, cache, temporary) as working_folder,
    ):
        code = call([*command, f"--{arguments.mode}", *overrides, *resume], working_folder)
        if (
            arguments.mode == "train" and trial.is_dir()
        ):  # threestudio's own is for a folder that will be gone
            (trial / "cmd.txt").write_text(f"python {shlex.join(sys.argv)}\n", encoding="utf-8")
        if code or arguments.mode != "train":
            return code
        from imagedream.runs.atomic_checkpoints import newest_checkpoint

        last = newest_checkpoint(trial / "ckpts", None) or trial / "ckpts" / "last.ckpt"
        return call([*command, "--export", *overrides, f"resume={last}"], working_folder)


def call(command: list[str], folder: Path) -> int:
    """Run a program that handles Ctrl-C and SIGTERM itself, to which they are passed on; its exit code."""
    ends_with_this = _end_with_parent if sys.platform == "linux" else None
    process = subprocess.Popen(command, cwd=folder, start_new_session=True, preexec_fn=ends_with_this)
    passed_on = (signal.SIGINT, signal.SIGTERM)

    def pass_on(number, _) -> None:
        if sys.platform != "win32":  # where Ctrl-C reaches all programs of a console
            process.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in passed_on}
    try:
        return process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _end_with_parent() -> None:
    """Nobody may be at work in a trial's folder whose lock a killed launch.py has lost."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def run_here(arguments, cfg, project: Path) -> int:
    """Run the embedded host."""
    from imagedream.runs.trial_folder import at_work, check_space
    from threestudio import launcher
    from threestudio.utils.misc import get_rank

    started = time.monotonic()
    run = launcher.build(arguments, cfg, project)
    first = get_rank() == 0
    if arguments.mode == "train" and first:
        check_space(run.trial, cfg, run.system)
    with at_work(run.trial, cfg, arguments.mode) if first else nullcontext():
        run.start()
    logging.getLogger("imagedream").info("Done in %.0f s: %s", time.monotonic() - started, run.trial)
    return 0


def problem(argv: list[str]) -> str | None:
    """What is wrong with a command line and its config, as far as can be seen without loading anything."""
    try:
        with temporary_folder() as folder:
            arguments = replace(parse_arguments(argv), preset=None)  # which may have to ask a device
            read_checked_config(with_one_config(arguments, "embedded", folder))
    except Exception as error:
        if not is_user_error(error):
            raise
        return one_line(error)
    return None


def run(argv: list[str], project: Path, folder: Path) -> int:
    """Choose the host, say which, read the config, run it.

    Args:
        argv: the command line.
        project: whose `configs/` and, in the embedded host, `custom/` are used.
        folder: for files that are needed until the end.
    """
    arguments = parse_arguments(argv, project)
    found = find_threestudio(arguments.threestudio)
    broken = real_threestudio.why_no_cuda() if found else None
    if found and broken:
        sys.stderr.write(
            f"note: threestudio at {found[0]} cannot use this GPU ({broken}); the embedded host can\n"
        )
        found = None
    where = f"threestudio at {found[0]}" if found else "embedded threestudio (plain PyTorch)"
    sys.stdout.write(f"host: {where}\n")
    note = real_threestudio.check_folder(*found) if found else None
    if note:
        sys.stderr.write(f"note: {note}\n")

    arguments = with_one_config(arguments, "threestudio" if found else "embedded", folder)
    sys.stdout.flush()
    cfg = read_checked_config(arguments)
    for reason, added in (
        ("a config of the official ImageDream fork", fork_overrides(cfg)),
        ("the name is too long for a folder", short_tag(cfg)),
    ):
        if added:
            sys.stderr.write(f"note: {reason}; added {' '.join(added)}\n")
            arguments = replace(arguments, overrides=[*arguments.overrides, *added])
            cfg.merge_with_dotlist(added)

    set_up_logging(arguments.verbose)
    logging.getLogger("imagedream").setLevel(logging.INFO)
    check_folder(Path(cfg.get("exp_root_dir", "outputs")), LEAST_FREE_BYTES)
    if cfg.get("resume") is not None:
        from imagedream.runs.trial_folder import resolve_resume

        resolve_resume(cfg, None if found else arguments.mode == "train")
    if found:
        return run_in_threestudio(found[0], arguments, cfg, folder)
    return run_here(arguments, cfg, project)


def main(argv: list[str], project: Path = PROJECT) -> int:
    """Run a command line; mistakes of the user end in one line on stderr and exit code 2.

    Args:
        argv: the flags and overrides.
        project: whose `configs/` and, in the embedded host, `custom/` are used.
    """
    try:
        with temporary_folder() as folder:
            return run(argv, project, folder)
    except (KeyboardInterrupt, Quit):
        sys.stderr.write("interrupted\n")
        return 130
    except Exception as error:
        if not is_user_error(error):
            raise
        return report_error(error, "error", verbose="--verbose" in argv)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
