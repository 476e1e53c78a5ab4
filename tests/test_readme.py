"""What the README tells people to run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)|`make (\w+)`", README, flags=re.MULTILINE):
        assert re.search(rf"^{''.join(target)}:", makefile, flags=re.MULTILINE), target


def test_configs_and_scripts_exist():
    for name in re.findall(r"--config ([\w.-]+\.yaml)", README):
        assert (ROOT / "configs" / name).exists(), name
    for script in re.findall(r"(?:python )?((?:launch_examples|benchmarks)/[\w.-]+\.(?:py|sh|png))", README):
        assert (ROOT / script).exists(), script


def test_verbs_exist():
    verbs = sorted(set(re.findall(r"python -m imagedream (\w+)", README)))
    assert len(verbs) >= 5
    from imagedream.cli import main

    for verb in verbs:
        with pytest.raises(SystemExit) as exit_:
            main([verb, "--help"])
        assert exit_.value.code == 0, verb


@pytest.mark.slow
def test_the_python_example_runs(tmp_path):
    example = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)[1]
    example = example.replace('"launch_examples/', f'"{ROOT.as_posix()}/launch_examples/')
    environment = {"PYTHONPATH": str(ROOT / "custom" / "threestudio-imagedream"), "PATH": ""}
    subprocess.run([sys.executable, "-c", example], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "views.png").stat().st_size > 1000
