"""The report is one file that needs no network, shows every part, and says which are missing."""

import base64
import re

import numpy as np
import PIL.Image
import pytest
import torch
import trimesh

from imagedream.image_prompt.prompt import prepare_image_prompt
from imagedream.report import _PAGE as PAGE
from imagedream.report import write_report


@pytest.fixture
def parts(tmp_path):
    pixels = np.zeros((30, 30, 4), np.uint8)
    pixels[5:25, 10:20] = (250, 120, 30, 255)
    trimesh.creation.box().export(tmp_path / "model.glb")
    (tmp_path / "turn.mp4").write_bytes(b"film")
    shape = {"faces": 12, "silhouette_iou": 0.9512}
    return {
        "title": "a <red> robot & co",
        "prompts": [prepare_image_prompt(PIL.Image.fromarray(pixels, "RGBA"), 32)],
        "views": torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)),
        "snapshots": [("step 100", torch.zeros(3, 16, 16)), ("step <200>", torch.ones(3, 16, 16))],
        "turntable": tmp_path / "turn.mp4",
        "mesh": tmp_path / "model.glb",
        "mesh_record": {
            "warnings": ["the field is <hazy>"],
            "picture_detail": [
                {"refused": None, "psnr_db": [19.5, 21.125], "ssim": [0.868, 0.911]},
                {"refused": "its camera is <30%> certain"},
            ],
            "files": [
                {"file": "model.glb", "psnr_db": 26.44, "solid": {"watertight": True}} | shape,
                {"file": "<model>.stl", "psnr_db": None, "solid": {"watertight": False}} | shape,
            ],
        },
        "mesh_levels": PIL.Image.new("RGB", (8, 8)),
        "timings": {"four views": 12.34, "optimisation": 200.0},
        "settings": {"system": {"guidance": {"weights": "<toybox>"}}, "seed": 0},
        "warnings": ["the object is <tiny>"],
    }


def test_everything_is_inside(tmp_path, parts):
    page = write_report(tmp_path / "out" / "report.html", **parts).read_text()
    links = re.findall(
        r'(?:src|href)="([^"]{0,40})', re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    )
    assert links
    assert all(link.startswith("data:") for link in links)
    for name, kind in (("model.glb", "model/gltf-binary"), ("turn.mp4", "video/mp4")):
        assert f"data:{kind};base64,{base64.b64encode((tmp_path / name).read_bytes()).decode()}" in page
    assert page.count("<img") == 1 + 4 + 2 + 1  # prompt, views, snapshots, levels
    assert all(f"<figcaption>{name}</figcaption>" in page for name in ("front", "left", "back", "right"))
    assert "12 triangles" in page
    assert "12 faces, watertight, silhouette IoU 0.951, PSNR 26.4 dB" in page
    assert "12 faces, not watertight, silhouette IoU 0.951<" in page
    assert "12.3 s" in page
    assert "3 min 20 s" in page
    assert "3 min 32 s" in page  # together
    assert "from its camera PSNR 19.5 -&gt; 21.1 dB, SSIM 0.868 -&gt; 0.911" in page
    assert "own pixels are not on the mesh" in page
    assert "system.guidance.weights" in page
    assert 'customElements.define("model-viewer"' in page
    assert 'class="missing"' not in page


def test_missing_parts_are_said(tmp_path):
    page = write_report(tmp_path / "report.html", title="a lamp").read_text()
    for part in ("No mesh", "No views", "No turntable", "No snapshots", "No times", "No settings"):
        assert part in page
    assert "customElements" not in page  # no viewer for no mesh


def test_unreadable_parts_do_not_stop_the_report(tmp_path, parts):
    (tmp_path / "broken.glb").write_bytes(b"glTFnonsense")
    (tmp_path / "broken.png").write_text("no picture")
    parts |= {
        "mesh": tmp_path / "broken.glb",
        "prompts": [tmp_path / "broken.png"],
        "turntable": tmp_path / "gone.mp4",
    }
    page = write_report(tmp_path / "report.html", **parts).read_text()
    assert page.count("This part cannot be shown") == 3
    assert "gone.mp4" in page


def test_pictures_of_every_kind(tmp_path, parts):
    PIL.Image.new("L", (8, 8)).save(tmp_path / "grey.png")
    parts |= {
        "views": [PIL.Image.new("P", (8, 8)), tmp_path / "grey.png"],
        "snapshots": [("only one", str(tmp_path / "grey.png"))],
    }
    page = write_report(tmp_path / "report.html", **parts).read_text()
    assert page.count("<img") == 1 + 2 + 1 + 1
    assert re.search(r'<input type="range"[^>]* hidden>', page)


def test_the_licence_lies_beside_the_viewer():
    licence = (PAGE / "model-viewer.LICENSE.txt").read_text()
    assert "Apache License" in licence
    assert "three.js authors" in licence
