import pytest

from imagedream.mesh import MeshSettings, mesh_field
from imagedream.mesh.writing import save, to_files
from tests import arrow


@pytest.fixture(scope="session")
def meshed_arrow():
    settings = MeshSettings(resolution=56, texture_size=256, target_faces=4000)
    return mesh_field(arrow.density(), arrow.colour, settings=settings)


@pytest.fixture(scope="session")
def glb_path(meshed_arrow, tmp_path_factory):
    return save(to_files(meshed_arrow.model), tmp_path_factory.mktemp("export"))[0]
