"""`python -m imagedream doctor`."""

import pytest
import torch

from imagedream.cli import doctor, main


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, and an empty working directory."""
    from huggingface_hub import constants

    folder = tmp_path / "hub"
    folder.mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


def store(cache, repository, name, size=10):
    snapshot = cache / f"models--{repository.replace('/', '--')}" / "snapshots" / ("0" * 40)
    (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
    (snapshot / name).write_bytes(b"x" * size)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir(exist_ok=True)
    (refs / "main").write_text("0" * 40)


def said(lines):
    return [f"{kind}: {line}" for kind, line in lines]


def test_everything_in_one_go(cache, capsys):
    assert main(["doctor"]) == 0
    output = capsys.readouterr().out
    for expected in (
        "python ",
        f"torch {torch.__version__.split('+')[0]}",
        "device ",
        *(() if torch.cuda.is_available() else ("training with precision=auto is in ",)),
        "GiB free",
        "weights of the small model that ships: toybox",
        "not here    weights sd-v2.1-base-4view-ipmv.pt (pixel model, 8.05 GB): weights=Peng-Wang/ImageDream/",
        "published model, ",
    ):
        assert expected in output


def test_weights_are_found_where_they_are(cache, tmp_path):
    store(cache, "Peng-Wang/ImageDream", "sd-v2.1-base-4view-ipmv.pt")
    store(cache, "ashawkey/imagedream-ipmv-diffusers", "unet/model.safetensors")
    store(cache, "somebody/else", "model.safetensors")
    (tmp_path / "here" / "weights").mkdir()
    (tmp_path / "here" / "weights" / "sd-v2.1-base-4view.pt").write_bytes(b"x")
    lines = said(doctor.weight_lines())
    found = [line for line in lines if line.startswith("ok: weights ") and "small model" not in line]
    assert [line.split(": ")[1] for line in found] == [
        "weights Peng-Wang/ImageDream/sd-v2.1-base-4view-ipmv.pt",
        "weights ashawkey/imagedream-ipmv-diffusers",
        "weights weights/sd-v2.1-base-4view.pt",
    ]
    (absent,) = [line for line in lines if line.startswith("not here: ")]
    assert "4view-ipmv-local.pt" in absent


def test_no_cache_is_no_problem(cache):
    cache.rmdir()
    assert any("toybox" in line for line in said(doctor.weight_lines()))


def test_what_would_run_follows_the_memory(cache, monkeypatch):
    import psutil

    if torch.cuda.is_available():
        pytest.skip("what runs depends on the GPU's memory here")
    available = psutil.virtual_memory()
    expected = {20: ["would run", "would run"], 6: ["too small", "would run"], 3: ["too small", "too small"]}
    for gib, verdicts in expected.items():
        memory = available._replace(available=gib * 2**30)
        monkeypatch.setattr(psutil, "virtual_memory", lambda memory=memory: memory)
        kinds = [kind for kind, line in doctor.plan_lines() if "four views on the CPU" in line]
        assert kinds == verdicts
