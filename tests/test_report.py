"""The report is one file that needs no network, shows every part, and says which are missing."""

import base64
import re

import numpy as np
import PIL.Image
import pytest
import torch
import trimesh

from imagedream.image_prompt.prompt import prepare_image_prompt
from imagedream.report import write_report


@pytest.fixture
def parts(tmp_path):
    pixels = np.zeros((30, 30, 4), np.uint8)
    pixels[5:25, 10:20] = (250, 120, 30, 255)
    trimesh.creation.box().export(tmp_path / "model.glb")
    (tmp_path / "turn.mp4").write_bytes(b"film")
    return {
        "title": "a <red> robot & co",
        "prompt_image": prepare_image_prompt(PIL.Image.fromarray(pixels, "RGBA"), 32),
        "views": torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)),
        "snapshots": [("step 100", torch.zeros(3, 16, 16)), ("step <200>", torch.ones(3, 16, 16))],
        "turntable": tmp_path / "turn.mp4",
        "mesh": tmp_path / "model.glb",
        "mesh_record": {
            "warnings": ["the field is <hazy>"],
            "files": [
                {
                    "file": "model.glb",
                    "faces": 12,
                    "psnr_db": 26.44,
                    "silhouette_iou": 0.9512,
                    "solid": {"watertight": True},
                },
                {
                    "file": "<model>.stl",
                    "faces": 12,
                    "psnr_db": None,
                    "silhouette_iou": 0.9512,
                    "solid": {"watertight": False},
                },
            ],
        },
        "mesh_levels": PIL.Image.new("RGB", (8, 8)),
        "timings": {"four views": 12.34, "optimisation": 200.0},
        "settings": {"system": {"guidance": {"weights": "<toybox>"}}, "seed": 0},
        "warnings": ["the object is <tiny>"],
        "notes": ["a note"],
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
    assert "system.guidance.weights" in page
    assert 'customElements.define("model-viewer"' in page
    assert 'class="missing"' not in page


def test_all_text_is_escaped(tmp_path, parts):
    page = write_report(tmp_path / "report.html", **parts).read_text()
    for raw in ("<red>", "<200>", "<toybox>", "<tiny>", "<hazy>", "<model>"):
        assert raw not in page
        assert raw.replace("<", "&lt;").replace(">", "&gt;") in page


def test_missing_parts_are_said(tmp_path):
    page = write_report(tmp_path / "report.html", title="a lamp").read_text()
    for sentence in (
        "No mesh was exported",
        "No views",
        "No turntable",
        "No snapshots",
        "No times",
        "No settings",
    ):
        assert sentence in page
    assert "customElements" not in page  # no viewer for no mesh


def test_unreadable_parts_do_not_stop_the_report(tmp_path, parts):
    (tmp_path / "broken.glb").write_bytes(b"glTFnonsense")
    (tmp_path / "broken.png").write_text("no picture")
    parts |= {
        "mesh": tmp_path / "broken.glb",
        "prompt_image": tmp_path / "broken.png",
        "turntable": tmp_path / "gone.mp4",
    }
    page = write_report(tmp_path / "report.html", **parts).read_text()
    assert page.count("This part cannot be shown") == 3
    page = write_report(tmp_path / "report.html", **(parts | {"mesh": tmp_path / "gone.glb"})).read_text()
    assert "gone.glb does not exist" in page


def test_pictures_of_every_kind(tmp_path, parts):
    PIL.Image.new("L", (8, 8)).save(tmp_path / "it100-0.png")
    parts |= {
        "views": PIL.Image.new("RGB", (40, 10)),  # the labelled strip
        "turntable": [torch.zeros(3, 8, 8), torch.ones(3, 8, 8)],
        "snapshots": [tmp_path / "it100-0.png"],
    }
    page = write_report(tmp_path / "report.html", **parts).read_text()
    assert page.count("<img") == 1 + 1 + 1 + 1 + 1
    assert 'alt="it100-0"' in page
    film = base64.b64decode(re.search(r'data:image/webp;base64,([^"]+)" alt="turntable"', page)[1])
    (tmp_path / "film.webp").write_bytes(film)
    with PIL.Image.open(tmp_path / "film.webp") as film:
        assert film.n_frames == 2


def test_the_licence_lies_beside_the_viewer():
    import imagedream.report as report

    licence = (report._PAGE / "model-viewer.LICENSE.txt").read_text()
    assert "Apache License" in licence
    assert "three.js authors" in licence
