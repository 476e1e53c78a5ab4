"""`launch.py` with configs that have a base, and with `--preset`."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

import launch

ROOT = Path(__file__).parents[1]
PICTURE = f"system.prompt_processor.image_path={ROOT / 'launch_examples' / 'robot.png'}"


@pytest.fixture
def run(capfd):
    """Exit code of a command line, what it said as output and as errors, what it said of presets."""

    def call(*arguments):
        try:
            code = launch.main(list(arguments))
        except SystemExit as ended:  # argparse's help
            code = ended.code
        said = capfd.readouterr()
        lines = [line for line in said.out.splitlines() if line.startswith("preset: ")]
        return code, *said, [line.removeprefix("preset: ") for line in lines]

    return call


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["--preset", "7g"],
            2,
            "error: --preset is 7g, must be auto or one of 8g, 12g, 16g, 24g, 40g, 80g, paper",
        ),
        (["--preset"], 2, "error: argument --preset: expected one argument"),
        (["--help"], 0, "--preset NAME"),
    ],
)
def test_launch_with_mistakes(run, arguments, code, said):
    found, out, err, _ = run("--config", "imagedream-toybox.yaml", PICTURE, *arguments)
    assert (found, said in out + err) == (code, True), out + err


def test_presets_are_said_and_overrides_win_over_them(run, tmp_path):
    code, _, err, lines = run(
        *("--config", "imagedream-two-models.yaml", "--preset=preview+12g", f"exp_root_dir={tmp_path}"),
        *("system.guidance.weights=nowhere", PICTURE, "data.batch_size=[4, 4, 4]", "trainer.max_steps=900"),
    )
    assert lines[0].startswith("preview (as asked): a first look")
    assert "system.guidances.local.guidance.max_step_percent=[0, 0.98, 0.5, 2667]" in lines[1]
    assert "system.exporter.normal_map=false" in lines[1]
    assert "trainer.max_steps" not in lines[1]
    assert "computed, not measured on a GPU" in lines[2]
    assert "data.height=[64, 80, 80]" in lines[3]
    assert "batch_size" not in lines[3]
    assert code == 2
    assert "no weights at nowhere" in err
    _, _, err, _ = run("--config", "imagedream-stable-diffusion.yaml", PICTURE)
    assert err.startswith(
        "error: imagedream-stable-diffusion.yaml leaves this to you: give system.prompt_processor.prompt=..."
    )


def test_a_real_threestudio_gets_one_plain_file(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    host = tmp_path / "threestudio-main"
    (host / "threestudio").mkdir(parents=True)
    (host / "threestudio" / "__init__.py").write_text('__version__ = "0.2.3"')
    (host / "launch.py").write_text(
        f"import shutil, sys\nprint('called with', *sys.argv[1:])\nshutil.copy(sys.argv[2], {str(tmp_path)!r})"
    )
    code, out, err, lines = run(
        *("--config", "imagedream-zero123.yaml", "--threestudio", str(host), "--preset", "24g", "--test"),
        *(PICTURE, "system.guidance.memory.encoder=offload"),
    )
    assert code == 0, err
    assert lines[0].startswith("24g (as asked)")
    called = next(line for line in out.splitlines() if line.startswith("called with "))
    assert called.count("memory.encoder=offload") == 1
    given = OmegaConf.load(tmp_path / "imagedream-zero123.yaml")
    assert "base" not in given
    assert given.system.guidances.zero123.weight == 0.1
    assert given.data.height == [64, 144, 144]
    assert (given.system.renderer.num_samples_per_ray, given.system.guidance.precision) == (512, "float16")
    assert OmegaConf.to_container(given)["checkpoint"]["every_n_train_steps"] == "${trainer.max_steps}"
