"""The same commands in an unmodified threestudio and in the embedded host; on a CPU, with `stand_ins/` for CUDA's part.

Needs $THREESTUDIO_ROOT, a checkout of threestudio 0.2.3, and nerfacc.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import threestudio
from tests.tiny import tiny_pipeline
from tests.tiny_guidance import save_tiny_stable_diffusion

ROOT = Path(__file__).parents[3]
CHECKOUT = os.environ.get("THREESTUDIO_ROOT")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not CHECKOUT, reason="THREESTUDIO_ROOT names no checkout of threestudio 0.2.3"),
    pytest.mark.skipif(importlib.util.find_spec("nerfacc") is None, reason="nerfacc is not installed"),
]

TOYBOX = (
    "--config=imagedream-toybox.yaml",
    "data.height=32",
    "data.width=32",
    "system.views.steps=2",
    "system.renderer.randomized=false",  # the hosts draw other numbers there
)
FORK = (
    "data.height=[16,16,16]",
    "data.width=[16,16,16]",
    "data.resolution_milestones=[1,2]",
    "system.views.steps=2",
    "system.renderer.num_samples_per_ray=24",
    "system.renderer.randomized=false",
    "system.material.ambient_only_steps=0",
    "trainer.precision=32-true",
)
SHORT = (
    "--train",
    "name=run",
    "tag=trial",
    "use_timestamp=false",
    "trainer.max_steps=3",
    "trainer.val_check_interval=3",
    "trainer.log_every_n_steps=1",
    "data.n_val_views=2",
    "data.n_test_views=3",
    "data.eval_height=32",
    "data.eval_width=32",
    "system.prompt_camera.enabled=false",  # hundreds of renders, slow with the stand-ins
    "system.exporter.resolution=24",
    "system.exporter.texture_size=64",
    f"system.prompt_processor.image_path={ROOT / 'launch_examples' / 'robot.png'}",
    "system.prompt_processor.prompt=a robot",
)


def run_python(arguments, folder, real):
    """Run Python in a host."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONWARNINGS": "ignore"}
    environment.pop("THREESTUDIO_ROOT")
    stand_ins = Path(__file__).parent / "stand_ins"
    environment["PYTHONPATH"] = os.pathsep.join(
        [CHECKOUT, str(stand_ins)] if real else [str(ROOT / "embedded")]
    )
    if arguments[0].endswith("launch.py"):
        environment["PYTHONPATH"] = str(stand_ins) if real else ""
        arguments = [*arguments, *(["--threestudio", CHECKOUT] if real else [])]
    result = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=580
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result


def metrics(trial):
    """Logged values by name, one a step."""
    table = np.genfromtxt(trial / "csv_logs" / "version_0" / "metrics.csv", delimiter=",", names=True)
    return {
        name.removeprefix("train"): table[name][~np.isnan(table[name])]
        for name in table.dtype.names
        if name.startswith("train")
    }


def picture(path):
    with PIL.Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float32) / 255


def start_checkpoint(config, path):
    """A field that is neither empty nor smooth, as a checkpoint for `system.weights`."""
    from threestudio.utils.config import merge_config

    cfg = merge_config(ROOT / "configs" / config, cli_args=["system.prompt_processor.image_path=x.png"])
    geometry = threestudio.find(cfg.system.geometry_type)(cfg.system.geometry)
    generator = torch.Generator().manual_seed(0)
    state = {f"geometry.{name}": value for name, value in geometry.state_dict().items()}
    state["geometry.encoding.encoding.encoding.params"].normal_(std=0.3, generator=generator)
    torch.save({"state_dict": state, "epoch": 0, "global_step": 0}, path)
    return path


@pytest.fixture(scope="module")
def toybox(tmp_path_factory, extension):
    folder = tmp_path_factory.mktemp("toybox")
    start = start_checkpoint("imagedream-toybox.yaml", folder / "start.ckpt")
    for host in ("real", "embedded"):
        arguments = [*TOYBOX, *SHORT, f"system.weights={start}", f"exp_root_dir={host}"]
        run_python([str(ROOT / "launch.py"), *arguments], folder, host == "real")
    return {host: folder / host / "run" / "trial" for host in ("real", "embedded")}


def test_all_files_are_there(toybox):
    for trial in toybox.values():
        files = {path.relative_to(trial).as_posix() for path in trial.rglob("*")}
        assert {
            "ckpts/last.ckpt",
            "configs/parsed.yaml",
            "report.html",
            "views.png",
            "save/it3-0.png",
            "save/it3-test.mp4",
            "save/it3-export/model.glb",
        } <= files


def test_a_clone_of_the_repository_is_an_extension(tmp_path):
    for entry in Path(CHECKOUT).iterdir():
        if entry.name != "custom":
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "custom").mkdir()
    (tmp_path / "custom" / "threestudio-imagedream").symlink_to(ROOT)
    config = "custom/threestudio-imagedream/configs/imagedream-toybox.yaml"
    launch = "import runpy; runpy.run_path('launch.py', run_name='__main__')"  # threestudio's own
    arguments = [
        "-c",
        launch,
        "--config",
        config,
        *TOYBOX[1:],
        *SHORT,
        "exp_root_dir=out",
        "trainer.max_steps=1",
    ]
    run_python(arguments, tmp_path, True)
    assert (tmp_path / "out" / "run" / "trial" / "views.png").is_file()


def test_cameras_noise_and_losses_agree(toybox):
    real, embedded = metrics(toybox["real"]), metrics(toybox["embedded"])
    assert set(real) == set(embedded)
    assert len(real["timestep"]) == 3
    np.testing.assert_array_equal(real["timestep"], embedded["timestep"])
    # the first loss is one of the same field; later ones see that the grids looked at other random points
    np.testing.assert_allclose(real["loss_sds"][0], embedded["loss_sds"][0], rtol=1e-3)
    np.testing.assert_allclose(real["loss_sparsity"][0], embedded["loss_sparsity"][0], rtol=1e-3)
    np.testing.assert_allclose(real["loss_sds"], embedded["loss_sds"], rtol=0.02)


def test_checkpoints_have_the_same_keys(toybox):
    real, embedded = (
        torch.load(toybox[host] / "ckpts" / "last.ckpt", weights_only=True) for host in ("real", "embedded")
    )
    assert real["global_step"] == embedded["global_step"] == 3
    shapes = [
        {name: tuple(value.shape) for name, value in ckpt["state_dict"].items() if value.numel()}
        for ckpt in (real, embedded)
    ]
    assert shapes[0] == shapes[1]


def test_one_hosts_checkpoint_looks_the_same_in_the_other(toybox, tmp_path):
    checkpoint = toybox["embedded"] / "ckpts" / "last.ckpt"
    arguments = [argument for argument in (*TOYBOX, *SHORT) if argument != "--train"]
    run_python(
        [str(ROOT / "launch.py"), "--test", *arguments, f"resume={checkpoint}", "exp_root_dir=there"],
        tmp_path,
        True,
    )
    for index in range(3):
        there = picture(tmp_path / "there" / "run" / "trial" / "save" / "it3-test" / f"{index}.png")
        here = picture(toybox["embedded"] / "save" / "it3-test" / f"{index}.png")
        assert here.std() > 0.05
        assert np.abs(there - here).mean() < 2e-3, np.abs(there - here).mean()


def test_random_cameras_have_the_same_keys(tmp_path):
    """threestudio's own data module: keys, types and shapes of a batch, and the values that are not random."""
    script = tmp_path / "cameras.py"
    script.write_text(
        "import sys, torch, threestudio\n"
        "from omegaconf import OmegaConf\n"
        "cfg = {'height': 8, 'width': 8, 'batch_size': 4, 'n_val_views': 4, 'eval_height': 8, 'eval_width': 8}\n"
        "data = threestudio.find('random-camera-datamodule')(OmegaConf.create(cfg))\n"
        "data.setup('fit')\n"
        "batches = [next(iter(data.train_dataloader())), *data.val_dataloader()]\n"
        "torch.save(batches, sys.argv[1])\n"
    )
    for host in ("real", "embedded"):
        run_python([str(script), str(tmp_path / f"{host}.pt")], tmp_path, host == "real")
    real, embedded = (torch.load(tmp_path / f"{host}.pt", weights_only=True) for host in ("real", "embedded"))
    assert len(real) == len(embedded) == 5
    for ours, theirs in zip(embedded, real, strict=True):
        assert set(ours) == set(theirs)
        for key, value in theirs.items():
            assert type(ours[key]) is type(value), key
            if isinstance(value, torch.Tensor):
                assert (ours[key].shape, ours[key].dtype) == (value.shape, value.dtype), key
    for ours, theirs in zip(embedded[1:], real[1:], strict=True):
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, msg=key)


def test_threestudios_own_stable_diffusion_mixes(tmp_path):
    model = save_tiny_stable_diffusion(tmp_path / "sd")
    named = f"pretrained_model_name_or_path: {model}"
    entry = (
        f"{{guidance_type: stable-diffusion-guidance, guidance: {{{named}, half_precision_weights: false}}, "
        "prompt_processor_type: stable-diffusion-prompt-processor, "
        f"prompt_processor: {{{named}, prompt: robot, spawn: false}}, cameras: first, weight: 0.1}}"
    )
    reference = "{guidance_type: imagedream-reference-guidance, guidance: {azimuth_deg: 0.0}, weight: 10.0}"
    mixed = f"system.guidances={{detail: {entry}, picture: {reference}}}"
    for host in ("real", "embedded"):
        arguments = [*TOYBOX, *SHORT, mixed, f"exp_root_dir={host}"]
        run_python([str(ROOT / "launch.py"), *arguments], tmp_path, host == "real")
        logged = metrics(tmp_path / host / "run" / "trial")
        assert len(logged["detailloss_sds"]) == len(logged["pictureloss_color"]) == 3
        assert np.isfinite(logged["detailloss_sds"]).all()


def test_the_forks_config_runs_in_both(tmp_path, fork_config):
    tiny_pipeline().save_pretrained(tmp_path / "weights")
    (tmp_path / "sd_v2_base_ipmv.yaml").write_text("model: {}")
    for host in ("real", "embedded"):
        arguments = [
            f"--config={fork_config}",
            *SHORT,
            *FORK,
            f"exp_root_dir={host}",
            "system.guidance.ckpt_path=weights",
            "system.guidance.config_path=sd_v2_base_ipmv.yaml",
            "system.guidance.ip_mode=pixel",
        ]
        result = run_python([str(ROOT / "launch.py"), *arguments], tmp_path, host == "real")
        assert "official ImageDream fork" in result.stderr
    real, embedded = (metrics(tmp_path / host / "run" / "trial") for host in ("real", "embedded"))
    np.testing.assert_array_equal(real["timestep"], embedded["timestep"])
    assert set(real) == set(embedded)
