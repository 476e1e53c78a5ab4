import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from imagedream import checkpoints
from tests.tiny import tiny_pipeline


@pytest.fixture
def folder(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_published_weights_that_are_not_there(tmp_path):
    with pytest.raises(checkpoints.CheckpointError) as error:
        checkpoints.check(tmp_path / "sd-v2.1-base-4view-ipmv.pt")
    for part in ("sd-v2.1-base-4view-ipmv.pt", "8.05 GB", "Peng-Wang/ImageDream", "system.guidance.weights="):
        assert part in str(error.value)


def test_a_folder_that_is_no_model(tmp_path):
    (tmp_path / "unet").mkdir()
    with pytest.raises(
        checkpoints.CheckpointError, match=r"model_index\.json, vae, encoder, scheduler missing"
    ):
        checkpoints.load(tmp_path)


def test_missing_unexpected_and_misshapen_keys_are_listed(folder):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state["unet.surprise"] = state.pop("unet.conv_in.bias")
    state["unet.conv_out.bias"] = torch.zeros(7)
    save_file(state, file)
    with pytest.raises(checkpoints.CheckpointError) as error:
        checkpoints.load(folder)
    for part in (
        "1 missing: unet/unet.conv_in.bias",
        "1 unexpected: unet/unet.surprise",
        "unet/unet.conv_out.bias (7,) instead of (4,)",
    ):
        assert part in str(error.value)


def test_a_scheduler_must_be_one(folder):
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "_class_name": "AutoencoderKL"}))
    with pytest.raises(checkpoints.CheckpointError, match="'AutoencoderKL' is not a scheduler"):
        checkpoints.load(folder)


def test_a_folder_of_before_keeps_its_negative_prompt(folder):
    index = json.loads((folder / "model_index.json").read_text())
    del index["negative_prompt"]
    index["negative_caption"] = "ugly"
    (folder / "model_index.json").write_text(json.dumps(index))
    assert checkpoints.load(folder).config.negative_prompt == "ugly"


def test_half_precision(folder):
    pipeline = checkpoints.load(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in pipeline.unet.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in pipeline.unet.parameters())


def test_the_shipped_model_is_complete_and_small():
    checkpoints.check("toybox")
    size = sum(file.stat().st_size for file in checkpoints.TOYBOX.rglob("*") if file.is_file())
    assert size <= 40 * 2**20
