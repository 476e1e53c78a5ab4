import pytest

from imagedream import mesh as meshing
from tests import arrow

SMALL = meshing.MeshSettings(resolution=72, texture_size=256, target_faces=4000)


@pytest.fixture(scope="session")
def meshed_arrow():
    return meshing.mesh_field(arrow.density(), arrow.colour, SMALL)


@pytest.fixture(scope="session")
def glb_path(meshed_arrow, tmp_path_factory):
    return meshing.save(meshing.to_files(meshed_arrow.model), tmp_path_factory.mktemp("export"))[0]
