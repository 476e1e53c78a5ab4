"""The shipped configs, shrunk, through the real system and host."""

import json
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

import threestudio
from imagedream.runs.settings import read_settings
from tests.short_run import short_trainer
from threestudio.models.renderers.nerf_volume_renderer import NeRFVolumeRenderer

CONFIGS = Path(__file__).parents[2] / "configs"


shipped = cache(read_settings)
"""Reading YAML takes longer than a training step here."""


def experiment(name, picture, weights, *overrides):
    small = [
        f"system.prompt_processor.image_path={picture}",
        f"system.guidance.weights={weights}",
        "system.prompt_processor.image_size=32",
        "system.views.steps=2",
        "data.eval_height=16",
        "data.eval_width=16",
        "data.n_val_views=2",
        "data.n_test_views=3",
        "system.renderer.num_samples_per_ray=24",
    ]
    cfg = OmegaConf.merge(shipped(CONFIGS / name), OmegaConf.from_cli([*small, *overrides]))
    OmegaConf.resolve(cfg)
    return cfg


PAPER_SMALL = (
    "data.height=[16,16,16]",
    "data.width=[16,16,16]",
    "data.resolution_milestones=[1,2]",
    "system.geometry.pos_encoding_config.n_levels=3",
    "system.geometry.pos_encoding_config.log2_hashmap_size=12",
    "system.material.ambient_only_steps=0",
)
TOYBOX_SMALL = ("data.height=16", "data.width=16")
NO_CAMERA = "system.prompt_camera.enabled=false"
"""Estimating it takes hundreds of renders."""


# Lightning 2.6 about itself, and what the host's launcher silences: cameras are drawn in the main process on purpose
@pytest.mark.filterwarnings("ignore:.*treespec.*", "ignore:.*does not have many workers.*")
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("imagedream.yaml", (*PAPER_SMALL, NO_CAMERA)),
        ("imagedream-toybox.yaml", TOYBOX_SMALL),
        pytest.param(
            "imagedream-fast.yaml",
            (*PAPER_SMALL[:-1], NO_CAMERA, "system.guidance.round_steps=[1]"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_configs_take_two_steps(extension, tmp_path, picture, weights, caplog, name, overrides):
    cfg = experiment(name, picture, weights, *overrides)
    torch.manual_seed(0)
    data = threestudio.find(cfg.data_type)(cfg.data)
    system_class = threestudio.find(cfg.system_type)
    system_class.preflight(cfg.system)
    system = system_class(cfg.system)
    system.set_save_dir(str(tmp_path / "trial" / "save"))
    before = {name: value.clone() for name, value in system.state_dict().items()}
    # an earlier run in the same folder leaves nothing to the new one
    (tmp_path / "trial" / "save").mkdir(parents=True, exist_ok=True)
    np.savez(tmp_path / "trial" / "save" / "views.npz", images=np.zeros((4, 16, 16, 3), np.uint8))
    (tmp_path / "trial" / "save" / "run.json").write_text('{"seconds": {"earlier": 1}}')
    trainer = short_trainer(
        tmp_path,
        2,
        val_check_interval=1,
        callbacks=[pl.callbacks.ModelCheckpoint(tmp_path / "ckpts", every_n_train_steps=2, save_last=True)],
    )
    trainer.fit(system, datamodule=data)

    # both the field's shape and its colours have moved
    after = system.state_dict()
    for part in ("geometry.encoding", "geometry.density_network", "geometry.feature_network"):
        names = [name for name in before if name.startswith(part) and before[name].numel()]
        assert names
        assert any(not torch.equal(before[name], after[name]) for name in names), part

    # no weights of the diffusion model in the checkpoint
    checkpoint = torch.load(tmp_path / "ckpts" / "last.ckpt", weights_only=True)
    owners = {name.split(".")[0] for name in checkpoint["state_dict"]}
    assert owners <= {"geometry", "material", "background", "renderer"}

    trial = tmp_path / "trial"
    with PIL.Image.open(trial / "views.png") as strip:
        assert strip.width > 4 * 16
    views = np.load(trial / "save" / "views.npz")
    assert views["images"].shape == (4, 16, 16, 3)
    assert views["images"].dtype == np.uint8
    assert views["azimuths_deg"].tolist() == [0, 90, 180, 270]
    assert float(views["elevation_deg"]) == cfg.system.views.elevation_deg
    shown = cfg.system.views
    expected = (
        system.mix.members[0]
        .load(0, 2)
        .pipeline(
            images=system.prompt_processor().images,
            prompt=system.prompt_utils.prompt,
            negative_prompt=cfg.system.prompt_processor.negative_prompt,
            guidance_scale=shown.get("guidance_scale"),
            num_inference_steps=shown.get("steps"),
            elevation_deg=shown.elevation_deg,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        )
    )
    expected = (expected.images.permute(0, 2, 3, 1) * 255).round().numpy()
    assert np.abs(views["images"] - expected).max() <= 1
    saved = {path.name for path in (trial / "save").iterdir()}
    assert {"prompt.png", "run.json", "it1-0.png", "it2-1.png"} <= saved

    record = json.loads((trial / "save" / "run.json").read_text())
    assert "earlier" not in record["seconds"]
    if "toybox" in name:
        (camera,) = record["prompt_cameras"]["field"]
        assert 0 <= camera["certainty"] <= 1

    trainer.test(system, datamodule=data, verbose=False)
    assert list((trial / "save").glob("it*-test.mp4"))
    report = (trial / "report.html").read_text()
    assert "brick" in report
    assert ("Seen from azimuth" in report) == ("toybox" in name)
    assert "not written" not in caplog.text


@pytest.mark.filterwarnings("ignore:.*treespec.*", "ignore:.*does not have many workers.*")
@pytest.mark.parametrize("own_train", [False, True])
def test_validations_change_nothing_in_training(
    extension, tmp_path, picture, weights, monkeypatch, own_train
):
    if own_train:  # as the real threestudio's renderers

        class Renderer(NeRFVolumeRenderer):
            def train(self, mode=True):
                self.cfg.randomized = mode
                return super().train(mode)

        monkeypatch.setitem(threestudio.__modules__, "nerf-volume-renderer", Renderer)
    ends = []
    for interval in (1, 100):
        cfg = experiment(
            "imagedream-toybox.yaml", picture, weights, *TOYBOX_SMALL, "system.prompt_camera.enabled=false"
        )
        torch.manual_seed(0)
        data = threestudio.find(cfg.data_type)(cfg.data)
        system = threestudio.find(cfg.system_type)(cfg.system)
        system.set_save_dir(str(tmp_path / str(interval) / "save"))
        options = {"val_check_interval": interval, "check_val_every_n_epoch": None}
        short_trainer(tmp_path / str(interval), 3, **options).fit(system, datamodule=data)
        ends.append(system.geometry.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("system.loss.lambda_magic=1", "lambda_magic"),
        ("system.views.colour=1", "colour"),
        ("system.guidance.wieghts=1", "wieghts"),
        ("system.prompt_processor.caption=1", "caption"),
        ("system.exporter.save_name=../model", r"save_name is '\.\./model', must be a plain file name"),
        (
            "system.guidance.weights=sd-v2.1-base-4view-ipmv.pt",
            r"sd-v2\.1-base-4view-ipmv\.pt.*8\.05 GB.*system\.guidance\.weights",
        ),
    ],
)
def test_what_is_wrong_is_found_before_a_run(extension, picture, weights, override, message):
    cfg = experiment("imagedream-toybox.yaml", picture, weights, override)
    system = threestudio.find(cfg.system_type)

    def start():
        system.preflight(cfg.system)
        system(cfg.system)

    with pytest.raises((ValueError, TypeError), match=message):
        start()


def test_losses_by_hand(extension):
    from threestudio.models.mesh import Mesh

    losses = import_module("threestudio-imagedream.system").REGULARISERS
    out = {
        "opacity": torch.tensor([0.0, 1.0]).reshape(1, 1, 2, 1),
        "z_variance": torch.tensor([5.0, 0.25]).reshape(1, 1, 2, 1),
        "normal": torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]),
        "t_dirs": torch.tensor([[0.0, 0.6, 0.8], [0.0, 0.6, 0.8]]),
        "weights": torch.tensor([[0.5], [0.25]]),
    }
    # sample 1 faces away: 0.5 · 0.8² = 0.32 over one ray that hits; sample 2 faces the camera
    assert losses["orient"](out).item() == pytest.approx(0.32)
    # (√0.01 + √1.01) / 2
    assert losses["sparsity"](out).item() == pytest.approx(0.5524938)
    # −(0.001 ln 0.001 + 0.999 ln 0.999)
    assert losses["opaque"](out).item() == pytest.approx(0.0079072, abs=1e-5)
    assert losses["z_variance"](out).item() == pytest.approx(0.25)
    # a square of two triangles: all normals agree; each corner's neighbours pull it inwards
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    flat = {"mesh": Mesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]))}
    assert losses["normal_consistency"](flat).item() == pytest.approx(0, abs=1e-6)
    # corners 0 and 2 have three neighbours, whose mean is (2/3, 2/3) away: length 2√2/3; 1 and 3 have two: √2/2
    expected = (2 * 2 * 2**0.5 / 3 + 2 * 2**0.5 / 2) / 4
    assert losses["laplacian_smoothness"](flat).item() == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="lambda_orient needs normals"):
        losses["orient"]({})
    with pytest.raises(ValueError, match="need a renderer of meshes, such as nvdiff-rasterizer"):
        losses["normal_consistency"]({})


def test_refinement_starts_at_the_level_of_the_newest_export(extension, tmp_path):
    exported_level = import_module("threestudio-imagedream.system")._exported_level
    checkpoint = tmp_path / "ckpts" / "last.ckpt"
    assert exported_level(checkpoint) is None
    exports = {20: '{"level": 3.5}', 100: '{"level": 7.25}', 200: '{"level": null}', 300: "{}"}
    for step, text in exports.items():
        folder = tmp_path / "save" / f"it{step}-export"
        folder.mkdir(parents=True)
        (folder / "model.json").write_text(text)
    assert exported_level(checkpoint) == 7.25


def test_memory_is_measured_where_there_is_no_resource_module(extension, monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # Windows
    trial = import_module("threestudio-imagedream.trial")
    assert trial.peak_memory_bytes() > 2**20
