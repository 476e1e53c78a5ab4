"""A run that is killed and goes on ends where it would have ended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import launch

ROOT = Path(__file__).parents[2]
KILLED_AFTER = 4


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_killed_once(extension, tmp_path, picture, weights):
    def arguments(tag, *more):
        return [
            *("--config", "imagedream-toybox.yaml", f"exp_root_dir={tmp_path}", "name=run", f"tag={tag}"),
            *(
                "use_timestamp=false",
                "data.height=8",
                "data.width=8",
                "data.n_val_views=1",
                "data.n_test_views=1",
            ),
            *(
                "system.prompt_processor.image_size=32",
                "system.views.steps=1",
                f"system.guidance.weights={weights}",
            ),
            *("data.eval_height=16", "data.eval_width=16", "system.renderer.num_samples_per_ray=24"),
            "system.exporter={resolution: 8, texture_size: 32, bake_views: 4, isosurface_threshold: 1.0}",
            *(
                "system.report=false",
                "system.prompt_camera.enabled=false",
                f"system.prompt_processor.image_path={picture}",
            ),
            *(
                "trainer.max_steps=9",
                "checkpoint.every_n_train_steps=2",
                "trainer.log_every_n_steps=1",
                *more,
            ),
        ]

    def state(tag):
        checkpoint = torch.load(tmp_path / "run" / tag / "ckpts" / "last.ckpt", weights_only=True)
        assert checkpoint["global_step"] == 8
        return checkpoint["state_dict"], checkpoint["optimizer_states"][0]["state"]

    # by the command line: a fork would share this process's locks, and what holds one when it is killed keeps it
    command = [sys.executable, str(ROOT / "launch.py"), *arguments("killed")]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        waiting = time.monotonic() + 200
        while not (tmp_path / "run" / "killed" / "ckpts" / f"epoch=0-step={KILLED_AFTER}.ckpt").exists():
            assert process.poll() is None, "the run ended before it was killed"
            assert time.monotonic() < waiting
            time.sleep(0.002)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL

    assert launch.main(arguments("killed", "--resume", "auto")) == 0
    assert launch.main(arguments("alone")) == 0
    field, moments = state("alone")
    killed_field, killed_moments = state("killed")
    assert field["renderer.estimator.occs"].any()
    for name, value in field.items():
        torch.testing.assert_close(killed_field[name], value, rtol=1e-4, atol=1e-6, msg=name)
    for number, values in moments.items():
        for name, value in values.items():
            torch.testing.assert_close(killed_moments[number][name], value, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_twenty_times(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import kill_and_resume

    trials = kill_and_resume.main(["--kills", "20", "--out", str(tmp_path / "kills")])
    assert sum(len(trial.killed_after_steps) for trial in trials) == 20
    assert {trial.final_step for trial in trials} == {60}
    assert max(trial.relative_difference for trial in trials) < 1e-3
    assert "20 times SIGKILL" in (tmp_path / "kills.md").read_text()
    del sys.modules["kill_and_resume"]
