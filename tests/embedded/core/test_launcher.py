"""The whole way from a command line to files, with a system of one parameter."""

import json
import os
import runpy
import shlex
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import launch
from imagedream.runs.disk_space import check_folder
from imagedream.runs.user_errors import is_user_error
from threestudio.launching.arguments import parse_arguments, read_config

PROJECT = Path(__file__).parent / "project"
ROOT = Path(__file__).parents[3]

pytestmark = [
    # Lightning 2.6 in its own checkpoints and loggers, on torch 2.15
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def start(*arguments):
    return launch.main(["--config", "toy", *arguments], PROJECT)


def events():
    toy = sys.modules["toy-extension"].ToySystem
    seen, toy.events = toy.events, []
    return seen


def test_train_then_resume_then_export(tmp_path, capsys):
    root = f"exp_root_dir={tmp_path}"
    assert start(root) == 0
    assert events() == [
        "preprocess train 2", "part 0", "system 0", "step 0", "end 1",
        "preprocess train 2", "part 1", "system 1", "step 1", "end 2",
        "preprocess validation 2", "part 2", "system 2", "end 2",
        "preprocess test 2", "part 2", "system 2", "test 2", "end 2",
        "preprocess predict 2", "part 2", "system 2", "end 2",
    ]  # fmt: skip
    trial = tmp_path / "toy" / "run"
    files = {str(path.relative_to(trial)) for path in trial.rglob("*") if path.is_file()}
    assert {
        *("ckpts/epoch=0-step=2.ckpt", "ckpts/last.ckpt", "cmd.txt", "code/versions.json"),
        *("configs/parsed.yaml", "configs/raw.yaml", "csv_logs/version_0/metrics.csv"),
        *("save/it2-0.json", "save/it2-export/model.json"),
    } <= files
    assert (trial / "configs" / "raw.yaml").read_text() == (PROJECT / "configs" / "toy.yaml").read_text()

    # a checkpoint holds nothing that needs unpickling, though betas and milestones came from YAML
    checkpoint = trial / "ckpts" / "last.ckpt"
    first = torch.load(checkpoint, weights_only=True)
    assert first["global_step"] == 2

    # three steps at once and two and one are the same
    assert start(root, f"resume={checkpoint}", "trainer.max_steps=3", "tag=more") == 0
    assert events()[:5] == ["preprocess train 2", "part 2", "system 2", "step 2", "end 3"]
    assert start(root, "trainer.max_steps=3", "tag=straight", "trainer.val_check_interval=3") == 0
    more, straight = (
        torch.load(tmp_path / "toy" / tag / "ckpts" / "last.ckpt", weights_only=True)
        for tag in ("more", "straight")
    )
    assert more["global_step"] == straight["global_step"] == 3
    assert straight["state_dict"]["part.value"] == more["state_dict"]["part.value"]
    events()

    (trial / "save" / "it2-export" / "model.json").unlink()
    assert start("--export", root, f"resume={checkpoint}") == 0
    assert events() == ["preprocess predict 2", "part 2", "system 2", "end 2"]
    exported = json.loads((trial / "save" / "it2-export" / "model.json").read_text())
    assert exported["value"] == first["state_dict"]["part.value"].item()
    assert start("--test", root, f"resume={checkpoint}") == 0
    assert "test 2" in events()
    assert start("--validate", root, "tag=fresh") == 0
    assert json.loads((tmp_path / "toy" / "fresh" / "save" / "it0-0.json").read_text()) == {"value": 1.0}
    assert "error" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["system.partt=1"], "ToySystem: unknown key partt (did you mean part?); allowed: "),
        (["system.part.begin=1"], "ToyPart: unknown key begin; allowed: start"),
        (["system_type=toy-sistem"], "nothing is registered as 'toy-sistem'; known: "),
        (["trainer.maxsteps=1"], "trainer: unknown key maxsteps; allowed: "),
        (["trainer.devices=2"], "trainer.devices is set by the launcher"),
        (["checkpoint.every=1"], "checkpoint: unknown key every; allowed: "),
        (["system.checkpoints.minutes=0.0"], "checkpoint minutes is 0.0, must be a number above 0, or null"),
        (["system.checkpoints.keep=0"], "checkpoints to keep is 0, must be a whole number of at least 1"),
        (["trainr.x=1"], "the config: unknown key trainr (did you mean trainer?)"),
        (["system.picture=nope.png"], "no picture at nope.png"),
        (["system.image_path=nope.png"], "system.image_path=nope.png: no such file"),
        (["system.optimizer.name=Adamm"], "optimizer.name is 'Adamm'; known: "),
        (["resume=nope.ckpt"], "resume=nope.ckpt: no such checkpoint"),
        (["--export", f"resume={__file__}"], "is not a checkpoint that can be resumed"),
        (["tag="], "needs a tag"),
        (
            ["timestamp=/../../../x"],
            "timestamp=/../../../x: the trial's folder must lie in exp_root_dir/name",
        ),
        (["checkpoint.filename=../../x"], "checkpoint.filename=../../x: must lie in the trial's folder of"),
        (["data.height=x"], "height must be a positive int"),
        (["data.n_test_views=16384", "data.eval_height=4096", "data.eval_width=4096"], " of pictures"),
        (["data=[]"], "the overrides do not fit the config"),
        (["system.renderer.radius=.nan"], "system.renderer.radius is nan, must be finite"),
        (["seed={"], "override 'seed={' cannot be read"),
        (["seed"], "'seed' is not an override; write key=value"),
        (
            ["trial_dir=/a"],
            "trial_dir=/a: trial_dir is computed; give exp_root_dir, name, tag and timestamp instead",
        ),
        (["n_gpus=2"], "n_gpus=2: n_gpus is computed; give --gpu instead"),
        (["description=???"], "description=???: ??? stands for a value that is still to be given"),
        (["--fast"], "unknown flag --fast; flags: --config, --export, "),
        (["--train", "--test"], "not allowed with"),
        (["--config", "toi"], "configs: toy.yaml"),
        (["--verbose", "system.partt=1"], "Traceback"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(arguments, message, tmp_path, capsys):
    assert start(f"exp_root_dir={tmp_path / 'out'}", *arguments) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: ")
    assert message in error
    assert error.count("\n") == 1 or "--verbose" in arguments
    assert not (tmp_path / "out").exists()


def test_a_moved_trial_stays_in_its_folder_and_its_command_can_be_pasted(tmp_path, monkeypatch):
    root, description = f"exp_root_dir={tmp_path / 'a'}", "description=it's # 1"
    monkeypatch.setattr(sys, "argv", ["launch.py", "--config", "toy", root, description])
    assert start(root, description) == 0
    trial = tmp_path / "b" / "moved trial"
    shutil.copytree(tmp_path / "a" / "toy" / "run", trial)
    shutil.rmtree(tmp_path / "a")
    command, rest = (trial / "cmd.txt").read_text().split("\n", 1)
    assert shlex.split(command) == ["python", *sys.argv]
    assert rest.startswith("# ")
    config = ["--config", str(trial / "configs" / "parsed.yaml"), f"resume={trial / 'ckpts' / 'last.ckpt'}"]
    shutil.rmtree(trial / "save")
    assert start(*config, "--export") == 0
    assert (trial / "save" / "it2-export" / "model.json").is_file()
    assert start(*config, "trainer.max_steps=3") == 0
    assert torch.load(trial / "ckpts" / "last.ckpt", weights_only=True)["global_step"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    events()


def test_what_a_config_leaves_open_must_be_given(tmp_path, capsys):
    config = tmp_path / "open.yaml"
    text = (PROJECT / "configs" / "toy.yaml").read_text()
    config.write_text(
        text.replace("start: 1.0", "start: ???").replace("tag: run", "tag: ${system.part.start}")
    )
    assert start("--config", str(config)) == 2
    assert capsys.readouterr().err == "error: open.yaml leaves this to you: give system.part.start=...\n"


def test_output_folder_is_checked(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert start(f"exp_root_dir={tmp_path / 'file' / 'out'}") == 2
    assert f"{tmp_path / 'file'} is a file" in capsys.readouterr().err
    with pytest.raises(OSError, match=r"MiB free at .*, the run needs") as caught:
        check_folder(tmp_path, 2**62)
    assert is_user_error(caught.value)


def test_other_errors_keep_their_traceback(tmp_path, monkeypatch):
    start("system.picture=x")  # so that the toy extension is loaded
    monkeypatch.setattr(sys.modules["toy-extension"].ToySystem, "training_step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        start(f"exp_root_dir={tmp_path}")


def test_the_script_names_its_host_and_reports_errors(monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["launch.py", "--config", "imagedream-toybox.yaml", "sistem.x=1"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(ROOT / "launch.py"), run_name="__main__")
    said = capfd.readouterr()
    assert said.out == "host: embedded threestudio (plain PyTorch)\n"
    assert said.err.startswith("error: the config: unknown key sistem (did you mean system?)")


def test_a_real_threestudio_is_run(tmp_path, monkeypatch, capfd):
    real = tmp_path / "real"
    (real / "threestudio").mkdir(parents=True)
    (real / "threestudio" / "__init__.py").write_text('__version__ = "0.2.3"\n')
    (real / "launch.py").write_text(
        "import os, sys\nprint(os.path.exists('custom/threestudio-imagedream'), sys.argv[1:])\n"
    )
    (tmp_path / "picture.png").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THREESTUDIO_ROOT", str(real))
    overrides = ["system.prompt_processor.image_path=picture.png", "timestamp='@1'"]
    assert launch.main(["--config", "imagedream-toybox.yaml", *overrides]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == f"host: threestudio at {real}"
    assert lines[1].startswith("True ['--config', ")
    assert f"'system.prompt_processor.image_path={tmp_path / 'picture.png'}'" in lines[1]
    assert "'--train'" in lines[1]
    assert "'--export'" in lines[2]
    assert f"resume={tmp_path}/outputs/imagedream-toybox/picture.png@1/ckpts/last.ckpt" in lines[2]


@pytest.mark.parametrize(("gpu", "count"), [((), 1), (("--gpu", "0,1"), 2)])
def test_as_many_gpus_as_are_asked_for_however_many_are_visible(monkeypatch, gpu, count):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    arguments = parse_arguments(["--config", "toy", "tag=x", *gpu], PROJECT)
    assert arguments.devices == count
    assert read_config(arguments).n_gpus == count


@pytest.mark.parametrize(("platform", "code"), [("linux", -signal.SIGTERM), ("win32", 0)])
def test_signals_are_passed_on_where_the_system_does_not(monkeypatch, tmp_path, platform, code):
    monkeypatch.setattr(sys, "platform", platform)
    before, done = signal.getsignal(signal.SIGTERM), tmp_path / "done"

    def interrupt():
        while signal.getsignal(signal.SIGTERM) is before:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        if platform == "win32":
            done.touch()

    threading.Thread(target=interrupt).start()
    child = f"import os, time\nwhile not os.path.exists({str(done)!r}):\n    time.sleep(0.01)"
    assert launch.call([sys.executable, "-c", child], tmp_path) == code
