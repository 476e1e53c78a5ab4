from dataclasses import dataclass

import pytest
import torch
from omegaconf import OmegaConf

from threestudio.systems.base import BaseLift3DSystem
from threestudio.systems.utils import parse_optimizer, parse_scheduler
from threestudio.utils.base import BaseModule, BaseObject, update_if_possible
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


def test_children_are_updated_before_parents_in_name_order(monkeypatch):
    Recorder.log.clear()
    root = Recorder({}, label="root")
    root.zebra, root.ape = Recorder({}, label="zebra"), Recorder({}, label="ape")
    root.ape.inner = Recorder({}, label="inner")
    root.in_a_list = [Recorder({}, label="unreached")]
    monkeypatch.setattr(Recorder, "broken", property(lambda self: 1 / 0), raising=False)  # is passed over
    update_if_possible(root, 1, 7)
    assert Recorder.log == [(name, 1, 7, False) for name in ("inner", "ape", "zebra", "root")]
    Recorder.log.clear()
    root.do_update_step_end(1, 8)
    assert Recorder.log == [(name, 1, 8) for name in ("inner", "ape", "zebra", "root")]
    update_if_possible("anything", 0, 0)


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


def test_weights_of_a_checkpoint(tmp_path):
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": {"w": torch.ones(1)}, "epoch": 0, "global_step": 9}, path)
    weights, epoch, step = load_module_weights(path)
    assert (weights, epoch, step) == ({"w": torch.ones(1)}, 0, 9)
    with pytest.raises(FileNotFoundError):
        load_module_weights(tmp_path / "y.ckpt")
    torch.save({"w": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="it has no state_dict"):
        load_module_weights(path)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.geometry = torch.nn.Sequential()
        self.geometry.encoding, self.geometry.network = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
        self.scale = torch.nn.Parameter(torch.ones(1))


def test_optimizer_groups():
    params = {"geometry.encoding": {"lr": 0.01}, "scale": {"lr": 0.5}}
    config = {"name": "AdamW", "args": {"betas": [0.9, 0.99], "eps": 1e-15, "lr": 0.1}, "params": params}
    optimizer = parse_optimizer(OmegaConf.create(config), Model())
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


def test_schedulers():
    def parse(**config):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        return parse_scheduler(OmegaConf.create(config), optimizer)

    parsed = parse(name="ExponentialLR", args={"gamma": 0.5})
    assert (parsed["interval"], parsed["scheduler"].gamma) == ("epoch", 0.5)
    assert parse(name="MultiStepLR", interval="step", args={"milestones": [2]})["interval"] == "step"
    with pytest.raises(ValueError, match=r"scheduler\.name is 'ExpLR'; known: .*ExponentialLR"):
        parse(name="ExpLR")
    with pytest.raises(ValueError, match="must be 'epoch' or 'step'"):
        parse(name="ExponentialLR", args={"gamma": 0.5}, interval="batch")


LIFT3D = {
    "geometry_type": "implicit-volume",
    "material_type": "no-material",
    "background_type": "neural-environment-map-background",
    "renderer_type": "nerf-volume-renderer",
}


def test_what_only_threestudio_does_is_said_at_once():
    system = BaseLift3DSystem(OmegaConf.create(LIFT3D))
    assert system.renderer.geometry is system.geometry
    with pytest.raises(KeyError, match=r"nothing is registered as 'mesh-exporter'; known: .*dummy-exporter"):
        BaseLift3DSystem(OmegaConf.create({**LIFT3D, "exporter_type": "mesh-exporter"}))
    with pytest.raises(ValueError, match="only threestudio itself converts geometries"):
        BaseLift3DSystem(OmegaConf.create({**LIFT3D, "geometry_convert_from": "x.ckpt"}))
