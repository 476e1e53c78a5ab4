"""An adapter is learned beside frozen weights, and does the same wherever it is loaded."""

import json

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from imagedream import checkpoints
from imagedream.cli import main
from imagedream.workshop.training.lora import add_corrections
from imagedream.workshop.training.train_config import LoraConfig
from tests.tiny import tiny_unet
from tests.workshop.training.conftest import LIGHTNING_WARNINGS

pytestmark = LIGHTNING_WARNINGS

pytest.importorskip("peft")


@pytest.fixture(scope="module")
def run(recipe, tiny_model, tmp_path_factory):
    """Three steps of an adapter to the tiny model."""
    root = tmp_path_factory.mktemp("lora")
    config = OmegaConf.load(recipe / "tiny.yaml")
    for name in ("model", "scheduler", "autoencoder", "encoder"):
        del config[name]
    config.lora = {"weights": str(tiny_model), "rank": 2, "alpha": 4}
    config.optimizer.learning_rate = 0.01
    OmegaConf.save(config, root / "lora.yaml")
    assert main(["train", "--config", str(root / "lora.yaml"), f"out={root / 'out'}", "steps=3"]) == 0
    return root


def outputs(unet):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    with torch.no_grad():
        return unet(draw(1, 5, 4, 4, 4), torch.tensor([500]), draw(1, 5, 16), draw(1, 12, 16), draw(1, 5, 32))


def test_the_file_holds_the_averaged_corrections_alone(run):
    adapter = run / "out" / "adapter.safetensors"
    tensors = load_file(adapter)
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in tensors)
    assert any("to_k_ip" in name for name in tensors)
    assert all(2 in tensor.shape for tensor in tensors.values())
    assert any(tensor.abs().max() > 0 for name, tensor in tensors.items() if "lora_B" in name)
    assert not (run / "out" / "model").exists()
    checkpoint = torch.load(run / "out" / "checkpoints" / "last.ckpt", weights_only=True)
    averaged = checkpoint["callbacks"]["AveragedWeights"]["shadow_params"]
    assert len(averaged) == len(tensors)
    for tensor in tensors.values():
        assert any(torch.equal(tensor, other) for other in averaged)


def test_merged_it_does_what_peft_does_beside_the_weights(run, tiny_model):
    adapter = run / "out" / "adapter.safetensors"
    merged = checkpoints.load(tiny_model, adapter=adapter).unet
    beside = tiny_unet()
    add_corrections(beside, LoraConfig(rank=2, alpha=4.0), seed=0)
    state = {
        name.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default."): tensor
        for name, tensor in load_file(adapter).items()
    }
    missing, unexpected = beside.unet.load_state_dict(state, strict=False)
    assert not unexpected
    assert not [name for name in missing if "lora" in name]
    expected, plain = outputs(beside.eval()), outputs(tiny_unet())
    assert (expected - plain).abs().max() > 1e-3
    torch.testing.assert_close(outputs(merged), expected, atol=1e-5, rtol=1e-4)
    half = checkpoints.load(tiny_model, adapter=adapter, adapter_scale=0.5).unet
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    weights = [model.unet.get_submodule(name).weight for model in (tiny_unet(), half, merged)]
    torch.testing.assert_close(weights[1], (weights[0] + weights[2]) / 2)
    checkpoints.merge_adapter(merged, adapter, -1.0)
    torch.testing.assert_close(outputs(merged), plain, atol=1e-5, rtol=1e-4)


def test_views_take_it(run, tiny_model, tmp_path, capsys):
    adapter, weights = run / "out" / "adapter.safetensors", str(tiny_model)
    common = ["views", "--prompt", "a toy", "--weights", weights, "--steps", "1", "--guidance-scale", "1"]
    pictures = []
    for name, options in (
        ("plain", []),
        ("nothing", ["--adapter", str(adapter), "--adapter-scale", "0"]),
        ("adapted", ["--adapter", str(adapter)]),
    ):
        assert main([*common, "--out", str(tmp_path / f"{name}.png"), *options]) == 0
        pictures.append((tmp_path / f"{name}.png").read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]
    assert json.loads((tmp_path / "adapted.json").read_text())["adapter"] == str(adapter)
    assert (
        main([*common, "--out", str(tmp_path / "no.png"), "--adapter", str(tmp_path / "no.safetensors")]) == 2
    )
    assert "no.safetensors: no such file" in capsys.readouterr().err


def test_targets_that_are_no_matrices():
    with pytest.raises(ValueError, match=r"'to_x' ends none of the names of \d+ matrices"):
        add_corrections(tiny_unet(), LoraConfig(rank=2, target_modules=["to_x"]), seed=0)
