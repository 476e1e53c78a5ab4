from dataclasses import dataclass

import pytest
import torch
from omegaconf import OmegaConf

from threestudio.systems.utils import parse_optimizer, parse_scheduler
from threestudio.utils.base import BaseModule, BaseObject, Updateable, update_if_possible
from threestudio.utils.misc import get_device, load_module_weights


class Recorder(BaseModule):
    @dataclass
    class Config(BaseModule.Config):
        width: int = 2

    log = []  # noqa: RUF012

    def configure(self, label="?"):
        self.label = label
        self.layer = torch.nn.Linear(1, self.cfg.width, bias=False)

    def update_step(self, epoch, global_step, on_load_weights=False):
        Recorder.log.append((self.label, epoch, global_step, on_load_weights))

    def update_step_end(self, epoch, global_step):
        Recorder.log.append((self.label, epoch, global_step))


def test_children_are_updated_before_parents_in_name_order():
    Recorder.log.clear()
    root = Recorder({}, label="root")
    root.zebra, root.ape = Recorder({}, label="zebra"), Recorder({}, label="ape")
    root.ape.inner = Recorder({}, label="inner")
    root.in_a_list = [Recorder({}, label="unreached")]
    update_if_possible(root, 1, 7)
    assert Recorder.log == [(name, 1, 7, False) for name in ("inner", "ape", "zebra", "root")]
    Recorder.log.clear()
    root.do_update_step_end(1, 8)
    assert Recorder.log == [(name, 1, 8) for name in ("inner", "ape", "zebra", "root")]
    update_if_possible("anything", 0, 0)


def test_properties_that_raise_are_passed_over():
    class Moody(Updateable):
        @property
        def broken(self):
            raise RuntimeError

        def update_step(self, epoch, global_step, on_load_weights=False):
            self.updated = global_step

    moody = Moody()
    moody.do_update_step(0, 3)
    assert moody.updated == 3


def test_objects_and_modules_are_configured():
    class Thing(BaseObject):
        @dataclass
        class Config(BaseObject.Config):
            size: int = 1

        def configure(self, factor, offset=0):
            self.value = self.cfg.size * factor + offset

    assert Thing({"size": 2}, 3, offset=1).value == 7
    assert Thing({}, 1).device == get_device()
    with pytest.raises(TypeError, match="unknown key sise"):
        Thing({"sise": 2}, 3)
    assert "_dummy" not in Recorder({}).state_dict()


def test_module_weights_from_a_checkpoint(tmp_path):
    source = Recorder({}, label="source")
    path = tmp_path / "x.ckpt"
    state = {f"part.{key}": value for key, value in source.state_dict().items()}
    torch.save({"state_dict": {**state, "other.w": torch.ones(1)}, "epoch": 0, "global_step": 9}, path)
    Recorder.log.clear()
    copy = Recorder({"weights": f"{path}:part"}, label="copy")
    assert torch.equal(copy.layer.weight, source.layer.weight)
    assert Recorder.log == [("copy", 0, 9, True)]
    assert set(load_module_weights(path, ignore_modules=["part"])[0]) == {"other.w"}
    with pytest.raises(ValueError, match="no weights of 'prt'; it has those of other, part"):
        load_module_weights(path, module_name="prt")
    with pytest.raises(FileNotFoundError):
        load_module_weights(tmp_path / "y.ckpt")
    with pytest.raises(ValueError, match=r"file\.ckpt:module_name"):
        Recorder({"weights": "nocolon"})
    with pytest.raises(RuntimeError, match="size mismatch"):
        Recorder({"weights": f"{path}:part", "width": 3})


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.geometry = torch.nn.ModuleDict(
            {"encoding": torch.nn.Linear(2, 2), "network": torch.nn.Linear(2, 1)}
        )
        self.geometry.encoding = self.geometry["encoding"]
        self.scale = torch.nn.Parameter(torch.ones(1))


def test_optimizer_groups():
    config = OmegaConf.create(
        {
            "name": "AdamW",
            "args": {"betas": [0.9, 0.99], "eps": 1e-15, "lr": 0.1},
            "params": {"geometry.encoding": {"lr": 0.01}, "scale": {"lr": 0.5}, "geometry": None},
        }
    )
    del config.params["geometry"]
    optimizer = parse_optimizer(config, Model())
    assert [group["name"] for group in optimizer.param_groups] == ["geometry.encoding", "scale"]
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.5]
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 1]
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.99)
    assert len(parse_optimizer(OmegaConf.create({"name": "Adam"}), Model()).param_groups[0]["params"]) == 5


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "AdamX"}, r"optimizer\.name is 'AdamX'; known: .*AdamW"),
        ({}, "must be a mapping with a 'name'"),
        ({"name": "Adam", "args": {"learning": 1}}, "optimizer Adam: .*learning"),
        ({"name": "Adam", "params": {"geometry.encodin": {}}}, r"'geometry\.encodin' is not an attribute"),
    ],
)
def test_optimizer_errors(config, message):
    with pytest.raises(ValueError, match=message):
        parse_optimizer(OmegaConf.create(config), Model())


def rates(config, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    parsed = parse_scheduler(OmegaConf.create(config), optimizer)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        parsed["scheduler"].step()
    return parsed["interval"], values


def test_schedulers():
    exponential = {"name": "ExponentialLR", "args": {"gamma": 0.5}}
    assert rates(exponential, 3) == ("epoch", [1.0, 0.5, 0.25])
    constant = {"name": "ConstantLR", "args": {"factor": 0.1, "total_iters": 5}}
    sequential = {"interval": "step", "schedulers": [constant, exponential], "milestones": [2]}
    for name in ("SequentialLR", "Sequential"):
        interval, values = rates({"name": name, **sequential}, 4)
        assert interval == "step"
        assert values == pytest.approx([0.1, 0.1, 1.0, 0.5])
    chained = {"name": "ChainedScheduler", "schedulers": [exponential, exponential]}
    assert rates(chained, 2)[1] == [1.0, 0.25]
    with pytest.raises(ValueError, match=r"scheduler\.name is 'ExpLR'; known: .*ExponentialLR"):
        rates({"name": "ExpLR"}, 1)
    with pytest.raises(ValueError, match="must be 'epoch' or 'step'"):
        rates({**exponential, "interval": "batch"}, 1)
