import shutil

import pytest

from imagedream import checkpoints


@pytest.fixture
def folder(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


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


def test_the_shipped_model_is_complete_and_small():
    checkpoints.check("toybox")
    size = sum(file.stat().st_size for file in checkpoints.TOYBOX.rglob("*") if file.is_file())
    assert size <= 40 * 2**20
