import importlib.util
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tests.tiny import tiny_pipeline

ROOT = Path(__file__).parents[2]
NAME = "threestudio-imagedream"


@pytest.fixture(scope="session")
def extension():
    """The extension, loaded under its folder's name as threestudio's launcher does."""
    if NAME not in sys.modules:
        folder = ROOT / "custom" / NAME
        spec = importlib.util.spec_from_file_location(NAME, folder / "__init__.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[NAME] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[NAME]
            raise
    return sys.modules[NAME]


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def picture(tmp_path_factory):
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[10:30, 5:35] = (200, 60, 20, 255)
    path = tmp_path_factory.mktemp("picture") / "brick.png"
    PIL.Image.fromarray(pixels).save(path)
    return str(path)
