"""What tests in several folders need."""

import pytest

from tests.tiny_guidance import save_tiny_stable_diffusion, save_tiny_zero123


@pytest.fixture(scope="session")
def stable_diffusion(tmp_path_factory):
    return save_tiny_stable_diffusion(tmp_path_factory.mktemp("models") / "sd")


@pytest.fixture(scope="session")
def zero123(tmp_path_factory):
    return save_tiny_zero123(tmp_path_factory.mktemp("models") / "zero123")
