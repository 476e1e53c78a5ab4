"""The Khronos glTF validator on exported files: `npm install gltf-validator`, anywhere that node finds it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from imagedream.mesh.writing import TexturedMesh, to_files

ROOT = Path(__file__).parents[2]

SCRIPT = """
const validator = require("gltf-validator"), fs = require("fs");
validator.validateBytes(new Uint8Array(fs.readFileSync(0))).then(report => console.log(JSON.stringify(report)));
"""


@pytest.fixture(scope="module")
def validate():
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    found = subprocess.run(
        [node, "-e", "require.resolve('gltf-validator')"], cwd=ROOT, capture_output=True, timeout=60
    )
    if found.returncode:
        pytest.skip("node does not find the package gltf-validator (npm install --no-save gltf-validator)")

    def run(data):
        result = subprocess.run(
            [node, "-e", SCRIPT], input=data, cwd=ROOT, capture_output=True, check=True, timeout=60
        )
        return json.loads(result.stdout)

    return run


@pytest.mark.parametrize("with_normal_map", [True, False])
def test_exported_glb_is_valid(validate, meshed_arrow, with_normal_map):
    model = meshed_arrow.model
    if not with_normal_map:
        model = TexturedMesh(model.mesh, model.base_colour)
    report = validate(to_files(model)["model.glb"])
    assert report["issues"]["messages"] == []
    assert report["info"]["totalTriangleCount"] == len(model.mesh.faces)
    assert report["info"]["version"] == "2.0"


def test_the_validator_does_find_errors(validate, meshed_arrow):
    data = to_files(meshed_arrow.model)["model.glb"]
    assert validate(data.replace(b'"SCALAR"', b'"VEC2"  '))["issues"]["numErrors"] > 0
