"""`launch.py --preset`."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PICTURE = f"system.prompt_processor.image_path={ROOT / 'launch_examples' / 'robot.png'}"


def launch(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=110,
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--preset", "7g"], 2, "error: --preset is 7g, must be auto or one of preview, default, paper, 8g"),
        (["--preset"], 2, "error: --preset is , must be auto"),
        (["--help"], 0, "--preset NAME  preview, default or paper"),
    ],
)
def test_launch_with_mistakes(arguments, code, said):
    run = launch("--config", "imagedream-toybox.yaml", PICTURE, *arguments)
    assert (run.returncode, said in run.stdout + run.stderr) == (code, True), run.stdout + run.stderr


def test_launch_turns_a_preset_into_overrides_which_others_win_over(tmp_path):
    run = launch(
        *("--config", "imagedream.yaml", "--preset=12g", f"exp_root_dir={tmp_path}"),
        *("system.guidance.weights=nowhere", PICTURE),
        "data.batch_size=[4, 4, 4]",
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith("preset: ")]
    assert lines[0] == "preset: 12g (as asked)"
    assert "computed, not measured on a GPU" in lines[1]
    assert "data.height=[64, 96, 96]" in lines[2]
    assert "system.guidance.memory.encoder=offload" in lines[2]
    assert "batch_size" not in lines[2]
    assert run.returncode == 2
    assert "no weights at nowhere" in run.stderr


def test_presets_of_quality_and_memory_together(tmp_path):
    run = launch(
        *("--config", "imagedream.yaml", "--preset=preview+8g", f"exp_root_dir={tmp_path}"),
        *("system.guidance.weights=nowhere", PICTURE, "trainer.max_steps=900"),
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith("preset: ")]
    assert lines[0].startswith("preset: preview (as asked): a first look")
    assert "data.height=64" in lines[1]
    assert "trainer.max_steps" not in lines[1]  # given
    assert lines[2] == "preset: 8g (as asked)"
    assert "system.guidance.memory.encoder=offload" in lines[4]
    assert "data.batch_size" not in lines[4]  # the preview's is small enough already


def test_a_real_threestudio_gets_the_overrides(tmp_path):
    host = tmp_path / "threestudio-main"
    (host / "threestudio").mkdir(parents=True)
    (host / "threestudio" / "__init__.py").write_text('__version__ = "0.2.3"')
    (host / "launch.py").write_text("import sys\nprint('called with', *sys.argv[1:])")
    run = launch(
        *("--config", "imagedream.yaml", "--threestudio", str(host), "--preset", "24g", "--test", PICTURE),
        "system.guidance.memory.encoder=offload",
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    assert "preset: 24g (as asked)" in run.stdout
    called = next(line for line in run.stdout.splitlines() if line.startswith("called with "))
    assert " data.height=[64,144,144]" in called
    assert " system.guidance.precision=float16" in called
    assert called.count("memory.encoder") == 1
