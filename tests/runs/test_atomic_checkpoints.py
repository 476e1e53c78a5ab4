"""Checkpoints that a run could not go on from are found out before it tries, and without running what is in them."""

import copy
import os
import zipfile

import pytest
import torch

from imagedream.runs.atomic_checkpoints import check_optimizers, newest_checkpoint, why_damaged

WHOLE = {
    "epoch": 0,
    "global_step": 20,
    "pytorch-lightning_version": "2.6.0",
    "state_dict": {"weight": torch.zeros(3)},
    "loops": {},
    "callbacks": {},
    "optimizer_states": [{"state": {}, "param_groups": []}],
    "lr_schedulers": [],
}


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trap",)


def damaged(**changes):
    return {name: value for name, value in {**copy.deepcopy(WHOLE), **changes}.items() if value != "gone"}


@pytest.mark.parametrize(
    ("checkpoint", "problem"),
    [
        *((damaged(**{name: "gone"}), f"it has no {name}") for name in WHOLE),
        *((damaged(**{name: None}), f"its {name} is NoneType") for name in WHOLE),
        (damaged(state_dict={"weight": "x"}), "its state_dict holds something else than tensors"),
        (damaged(global_step=-5), "step -5"),
        (damaged(global_step=True), "its global_step is bool"),
        (damaged(epoch=float("nan")), "its epoch is float"),
        (damaged(**{"pytorch-lightning_version": "abc"}), "'abc'"),
        (damaged(optimizer_states=[]), "optimizer_states"),
        (damaged(optimizer_states=["x"]), "optimizer_states"),
        (damaged(state_dict={"weight": torch.tensor([0, float("nan")])}), "its state_dict holds NaN"),
        (damaged(optimizer_states=[{"param_groups": [{"lr": float("nan")}]}]), "optimizer_states holds NaN"),
        (damaged(extra=Trap()), "it holds more than tensors and plain values"),
        ([1], "it is no checkpoint of a run"),
    ],
)
def test_what_a_run_cannot_go_on_from(tmp_path, monkeypatch, caplog, checkpoint, problem):
    monkeypatch.chdir(tmp_path)
    older, newer = tmp_path / "step-1.ckpt", tmp_path / "step-2.ckpt"
    torch.save({**WHOLE, "global_step": 10}, older)
    torch.save(checkpoint, newer)
    assert problem in why_damaged(newer)
    assert newest_checkpoint(tmp_path) == older
    assert why_damaged(newer, training=None) is None  # its check sums are right
    assert not (tmp_path / "trap").exists()


def test_an_optimisers_state_is_of_its_parameters():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    check_optimizers([optimizer])
    optimizer.state[weight]["exp_avg"] = torch.zeros(2)
    with pytest.raises(ValueError, match=r"an exp_avg has the shape \(2,\), its parameter \(3,\)"):
        check_optimizers([optimizer])


@pytest.mark.parametrize("damage", ["cut short", "flipped", "empty"])
def test_bytes_that_are_not_those_that_were_written(tmp_path, damage):
    older, newer = tmp_path / "step-1.ckpt", tmp_path / "step-2.ckpt"
    torch.save({**WHOLE, "state_dict": {"weight": torch.rand(1000)}}, newer)
    torch.save({**WHOLE, "global_step": 10}, older)
    content = newer.read_bytes()
    assert newest_checkpoint(tmp_path) == newer
    middle = len(content) // 2  # in the tensor
    flipped = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
    newer.write_bytes({"cut short": content[:middle], "flipped": flipped, "empty": b""}[damage])
    assert why_damaged(newer, training=None)
    assert newest_checkpoint(tmp_path) == older


def test_pictures_of_a_run_need_no_optimiser(tmp_path):
    path = tmp_path / "weights.ckpt"
    torch.save({name: WHOLE[name] for name in list(WHOLE)[:4]}, path)
    assert "optimizer_states" in why_damaged(path) or "loops" in why_damaged(path)
    assert why_damaged(path, training=False) is None


def test_what_may_unpack_to_any_size_is_not_unpacked(tmp_path):
    torch.save({**WHOLE, "state_dict": {"weight": torch.zeros(1 << 20)}}, tmp_path / "whole.ckpt")
    with (
        zipfile.ZipFile(tmp_path / "whole.ckpt") as whole,
        zipfile.ZipFile(tmp_path / "small.ckpt", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for part in whole.namelist():
            small.writestr(part, whole.read(part))
    assert (tmp_path / "small.ckpt").stat().st_size * 100 < (tmp_path / "whole.ckpt").stat().st_size
    assert why_damaged(tmp_path / "whole.ckpt") is None
    for training in (True, None):
        assert "compressed" in why_damaged(tmp_path / "small.ckpt", training)
