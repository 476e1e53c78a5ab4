"""The way in: the command line of threestudio, run by a real threestudio where there is one.

    python launch.py --config imagedream-toybox.yaml --train system.prompt_processor.image_path=picture.png

A real threestudio is used when `--threestudio DIR` or $THREESTUDIO_ROOT names one, or `import threestudio` finds one;
otherwise the embedded host, which needs neither CUDA nor threestudio.
"""

import importlib.util
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

PROJECT = Path(__file__).resolve().parent
EXTENSION = PROJECT / "custom" / "threestudio-imagedream"


def find_threestudio(folder: str | None) -> Path | None:
    """The folder of a real threestudio: the given one, $THREESTUDIO_ROOT, or that of the importable package."""
    for source, named in (
        ("--threestudio", folder),
        ("THREESTUDIO_ROOT", os.environ.get("THREESTUDIO_ROOT")),
    ):
        if named:
            if not (Path(named) / "launch.py").is_file() or not (Path(named) / "threestudio").is_dir():
                raise ValueError(f"{source}={named} is no threestudio: it has no launch.py and threestudio/")
            return Path(named).resolve()
    spec = importlib.util.find_spec("threestudio")
    if spec is None or spec.origin is None:
        return None
    found = Path(spec.origin).resolve().parents[1]
    return found if (found / "launch.py").is_file() else None


def link_extension(threestudio: Path) -> None:
    """Make the extension visible in threestudio's `custom/`."""
    target = threestudio / "custom" / EXTENSION.name
    if target.exists():
        if target.resolve() != EXTENSION:
            sys.stderr.write(f"note: using the extension that is already at {target}\n")
        return
    target.parent.mkdir(exist_ok=True)
    target.symlink_to(EXTENSION, target_is_directory=True)


def absolute_paths(overrides: list[str]) -> list[str]:
    """Overrides whose value is a file or folder here, or a list of them, made independent of threestudio's own folder."""
    result = []
    for override in overrides:
        key, _, value = override.partition("=")
        if value.startswith("[") and value.endswith("]"):
            items = [_absolute(item.strip()) for item in value[1:-1].split(",")]
            result.append(f"{key}=[{','.join(items)}]")
        else:
            result.append(f"{key}={_absolute(value)}")
    return result


def _absolute(value: str) -> str:
    exists_here = value and ("/" in value or "." in value) and Path(value).exists()
    return str(Path(value).resolve()) if exists_here else value


def run_in_threestudio(folder: Path, arguments, launcher) -> int:
    """Run threestudio's own launch.py in its folder; training is followed by an export, as everywhere else."""
    from datetime import datetime

    overrides = absolute_paths(arguments.overrides)
    cfg = launcher.read_config(arguments)
    given = {override.partition("=")[0] for override in overrides}
    if "exp_root_dir" not in given:
        overrides.append(f"exp_root_dir={Path(cfg.get('exp_root_dir', 'outputs')).resolve()}")
    timestamp = cfg.get("timestamp")
    if timestamp is None:
        timestamp = datetime.now().strftime("@%Y%m%d-%H%M%S") if cfg.get("use_timestamp", True) else ""
        overrides.append(f"timestamp='{timestamp}'" if timestamp else "use_timestamp=false")
    link_extension(folder)
    flags = ["--gpu", arguments.gpu] + (["--verbose"] if arguments.verbose else [])
    command = [sys.executable, "launch.py", "--config", str(arguments.config), *flags]
    code = subprocess.call([*command, f"--{arguments.mode}", *overrides], cwd=folder)
    if code or arguments.mode != "train":
        return code
    root = Path(
        next(o for o in reversed(overrides) if o.startswith("exp_root_dir=")).partition("=")[2]
    ).absolute()
    last = root / str(cfg.get("name", "default")) / f"{cfg.get('tag', '')}{timestamp}" / "ckpts" / "last.ckpt"
    overrides = [override for override in overrides if not override.startswith("resume=")]
    return subprocess.call([*command, "--export", *overrides, f"resume={last}"], cwd=folder)


def main(argv: list[str]) -> int:
    """Choose the host, say which, run it."""
    found, problem = None, None
    try:
        named = [b for a, b in pairwise(argv) if a == "--threestudio"]
        named += [a.partition("=")[2] for a in argv if a.startswith("--threestudio=")]
        found = find_threestudio(named[-1] if named else None)
    except ValueError as error:
        problem = error
    sys.path.insert(0, str(PROJECT / "embedded"))
    from threestudio import launcher

    try:
        if problem is not None:
            raise problem
        arguments = launcher.parse_arguments(argv)
    except ValueError as error:
        return launcher.report_error(error, verbose="--verbose" in argv)
    if found is None:
        sys.stdout.write("host: embedded threestudio (plain PyTorch)\n")
        sys.stdout.flush()
        return launcher.main(argv)
    sys.stdout.write(f"host: threestudio at {found}\n")
    sys.stdout.flush()
    try:
        return run_in_threestudio(found, arguments, launcher)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not launcher.is_user_error(error):
            raise
        return launcher.report_error(error, verbose=arguments.verbose)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
