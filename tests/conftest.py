"""What tests in several folders need; the process that hands tests to others reads this too, and needs no torch for it."""

import atexit
import gc
import importlib.util
import sys
from pathlib import Path

import pytest

gc.disable()  # the modules that collecting imports are millions of objects, which would be looked through again and again


def pytest_collection_finish():
    """From here on only what tests make is looked through."""
    gc.freeze()
    gc.enable()
    atexit.register(gc.unfreeze)  # libraries complain of what is left over


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A folder with the tiny model, to be read only."""
    from tests.tiny import tiny_pipeline

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bricks(tmp_path_factory):
    """Pictures of a red, a green and a blue brick: paths by colour."""
    from tests.tiny import brick

    folder = tmp_path_factory.mktemp("bricks")
    colours = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}
    return {name: str(brick(folder / f"{name}.png", colour)) for name, colour in colours.items()}


@pytest.fixture(scope="session")
def stable_diffusion(tmp_path_factory):
    from tests.tiny_guidance import save_tiny_stable_diffusion

    return save_tiny_stable_diffusion(tmp_path_factory.mktemp("models") / "sd")


@pytest.fixture(scope="session")
def zero123(tmp_path_factory):
    from tests.tiny_guidance import save_tiny_zero123

    return save_tiny_zero123(tmp_path_factory.mktemp("models") / "zero123")


@pytest.fixture(scope="session")
def extension():
    """The extension, loaded under its folder's name as threestudio's launcher does."""
    name = "threestudio-imagedream"
    if name not in sys.modules:
        folder = Path(__file__).parents[1] / "custom" / name
        spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
