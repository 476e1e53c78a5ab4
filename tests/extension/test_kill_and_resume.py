"""Runs that are killed and resumed end where they would have ended; to the bit, in `test_recovery.py`, where none is killed."""

import pytest

from benchmarks import kill_and_resume


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_runs_end_where_they_would_have_ended(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = ["--kills", "2", "--kills-per-trial", "2", "--steps", "20", "--out", str(tmp_path / "kills")]
    (trial,) = kill_and_resume.main([*options, "system.prompt_camera.enabled=false"])
    assert len(trial.killed_after_steps) == 2
    assert trial.final_step == 20
    assert trial.relative_difference < 1e-3
    assert "2 times SIGKILL" in (tmp_path / "kills.md").read_text()
