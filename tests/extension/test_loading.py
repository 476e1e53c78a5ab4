"""The extension in a fresh interpreter, loaded the way threestudio's launcher does, without the library installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SCRIPT = """
import importlib.util, sys
import threestudio

sys.path = [entry for entry in sys.path if entry != sys.argv[1]]  # where an editable installation points to

def load():
    path = sys.argv[2] + "/__init__.py"
    spec = importlib.util.spec_from_file_location("threestudio-imagedream", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["threestudio-imagedream"] = module
    spec.loader.exec_module(module)

version, threestudio.__version__ = threestudio.__version__, "0.1.9"
try:
    load()
except ValueError as error:
    assert "threestudio is 0.1.9, threestudio-imagedream needs 0.2.0" in str(error), error
else:
    raise AssertionError("an old threestudio was accepted")

threestudio.__version__ = version
load()
import imagedream
assert "diffusers" not in sys.modules, "the diffusion model's libraries are loaded when they are needed"
names = "system guidance prompt-processor camera-datamodule background mesh-exporter".split()
for name in names:
    assert threestudio.find("imagedream-" + name).__module__.startswith("threestudio-imagedream.")
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("loaded", ["custom/threestudio-imagedream", "."], ids=["extension", "clone"])
def test_fresh_interpreter(loaded, tmp_path):
    """The extension's folder in `custom/`, and the repository as it is cloned there."""
    folder = tmp_path / "custom" / "clone"
    folder.parent.mkdir()
    folder.symlink_to(ROOT / loaded)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["PYTHONPATH"] = str(ROOT / "embedded")
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(ROOT / "custom" / "threestudio-imagedream"), str(folder)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=570,
    )
    assert result.returncode == 0, result.stderr
