"""Files from elsewhere: no code in them runs, nothing is written outside, nothing grows without bound. docs/security.md."""

import ast
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import trimesh
from omegaconf import OmegaConf

from imagedream import checkpoints
from imagedream.cli import main
from imagedream.image_prompt.prompt import MAX_BYTES, ImagePromptError, load_image_prompt
from imagedream.report import write_report
from imagedream.workshop.mesh_files import reading as meshes
from imagedream.workshop.mesh_files import source as mesh_source
from imagedream.workshop.rendering.captioned_files import Item
from imagedream.workshop.rendering.samples import SampleError, decode_png
from tests.workshop.mesh_files.squares import TEXTURED, Scene

ROOT = Path(__file__).parents[1]


class Malicious:
    """Unpickling it makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


@pytest.fixture
def marker(tmp_path):
    """What malicious files make if they are run; it must not be there at the end."""
    path = tmp_path / "code-was-run"
    yield path
    assert not path.exists()


def malicious_files(folder, marker):
    """The same trap in every format that can hold one."""
    state = {"epoch": 0, "global_step": 1, "state_dict": {"a": torch.zeros(1)}, "trap": Malicious(marker)}
    for name in ("model.pt", "model.ckpt", "model.pth", "model.bin"):
        torch.save(state, folder / name)
    torch.save(state, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    (folder / "bare.pt").write_bytes(pickle.dumps(Malicious(marker), protocol=2))
    (folder / "bare.ckpt").write_bytes(pickle.dumps(state, protocol=2))
    trap = np.array([Malicious(marker)], dtype=object)
    np.save(folder / "array.npy", trap, allow_pickle=True)
    np.savez(folder / "arrays.npz", images=trap)
    return state


# ------------------------------------------------------------------------------------------------ pickles


WEIGHTS = ("model.pt", "model.ckpt", "model.pth", "model.bin", "legacy.pt", "bare.pt", "bare.ckpt")
CHECKPOINTS = ("model.ckpt", "bare.ckpt", "legacy.pt")


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_run_nothing(name, tmp_path, marker, capsys):
    malicious_files(tmp_path, marker)
    (tmp_path / "folder" / "unet").mkdir(parents=True)
    for folder in (tmp_path / "folder", tmp_path / "folder" / "unet"):
        torch.save({"a": Malicious(marker)}, folder / "diffusion_pytorch_model.bin")
    for source in (tmp_path / name, tmp_path / "folder"):
        with pytest.raises(checkpoints.CheckpointError):
            checkpoints.load(source)
        assert main(["convert", str(source), "--out", str(tmp_path / "converted")]) == 2
    for part in ("unet", "vae", "encoder"):  # training's `initial=`
        with pytest.raises(checkpoints.CheckpointError):
            checkpoints.load_part(tmp_path / name, part)
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "converted").exists()


@pytest.mark.parametrize("name", [*CHECKPOINTS, "array.npy", "arrays.npz"])
def test_checkpoints_of_runs_run_nothing(name, tmp_path, marker):
    import real_threestudio

    from threestudio.launcher import read_status
    from threestudio.utils.misc import load_module_weights

    malicious_files(tmp_path, marker)
    with pytest.raises(ValueError, match="is not a checkpoint that can be resumed") as refused:
        read_status(tmp_path / name)
    assert "weights_only" not in str(refused.value)  # torch advises to switch it off
    with pytest.raises((pickle.UnpicklingError, RuntimeError, ValueError, EOFError)):
        load_module_weights(tmp_path / name)
    if name in CHECKPOINTS:  # a real threestudio is not handed code
        with pytest.raises(ValueError, match=r"which could run code|is no checkpoint"):
            real_threestudio.check_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    "function", [np.load, OmegaConf.load, torch.hub.load, os.system, eval, getattr, exec]
)
def test_functions_of_harmless_modules_are_not_harmless(function, tmp_path):
    import real_threestudio

    class Call:
        def __reduce__(self):
            return (function, ("x",))

    torch.save({"a": Call()}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="could run code"):
        real_threestudio.check_checkpoint(tmp_path / "last.ckpt")


def test_an_ordinary_checkpoint_is_handed_on(tmp_path):
    import real_threestudio

    config = OmegaConf.create({"betas": [0.9, 0.99]})
    state = {"state_dict": {"a": torch.zeros(1)}, "config": config, "step": np.float64(1), "path": Path("a")}
    torch.save(state, tmp_path / "last.ckpt")
    real_threestudio.check_checkpoint(tmp_path / "last.ckpt")


def test_arrays_of_objects_are_not_unpickled(tmp_path, marker):
    from imagedream.workshop.batch.pages import _pictures

    malicious_files(tmp_path, marker)
    for name in ("array.npy", "arrays.npz"):
        with pytest.raises(ValueError, match="allow_pickle=False"):
            dict(np.load(tmp_path / name)) if name.endswith("z") else np.load(tmp_path / name)
    (tmp_path / "run" / "save").mkdir(parents=True)
    (tmp_path / "arrays.npz").rename(tmp_path / "run" / "save" / "views.npz")
    assert _pictures(tmp_path / "run" / "save")[1:5] == [None] * 4


def test_the_source_unpickles_nowhere_else():
    """Whoever adds a `torch.load` says that it takes tensors only."""
    for folder in ("custom", "embedded", "benchmarks", "launch_examples"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                    assert given.get("weights_only") == "True", (path, node.lineno)
            words = ("pickle.load", "allow_pickle=True", "weights_only=False", "unsafe_load", "yaml.Loader")
            assert not [word for word in words if word in text], path


def test_yaml_makes_no_objects(tmp_path, marker, capsys):
    import yaml

    import launch

    trap = f"name: !!python/object/apply:builtins.open ['{marker}', 'w']\n"
    (tmp_path / "trap.yaml").write_text(trap)
    with pytest.raises(yaml.YAMLError):
        OmegaConf.load(tmp_path / "trap.yaml")
    assert launch.main(["--config", str(tmp_path / "trap.yaml")]) == 2
    assert main(["train", "--config", str(tmp_path / "trap.yaml")]) == 2
    assert "could not determine a constructor" in capsys.readouterr().err


# ------------------------------------------------------------------------------------- writing outside


@pytest.mark.parametrize(
    ("name", "tag"),
    [("../x", "t"), ("x", "../../t"), ("/tmp/x", "t"), ("x", "/tmp/t"), ("..", "t"), ("x", "..")],
)
def test_a_trial_stays_in_its_folder(name, tag, tmp_path, capsys):
    import launch

    command = ["--config", "imagedream-toybox.yaml", f"exp_root_dir={tmp_path / 'a' / 'b'}"]
    command += [f"name={name}", f"tag={tag}", "use_timestamp=false"]
    command += [f"system.prompt_processor.image_path={ROOT / 'launch_examples' / 'car.png'}"]
    assert launch.main(command) == 2
    assert "the trial's folder must lie in exp_root_dir/name" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../x.json", "/tmp/x.json", "a/../../x.json"])
def test_what_a_run_saves_stays_in_its_folder(name, tmp_path):
    from threestudio.utils.saving import SaverMixin

    saver = SaverMixin()
    saver._save_dir = str(tmp_path / "trial" / "save")
    (tmp_path / "trial" / "save").mkdir(parents=True)
    with pytest.raises(ValueError, match="outside the trial's folder"):
        saver.save_json(name, {})
    saver.save_json("it1-export/x.json", {})
    assert [path.name for path in tmp_path.rglob("*.json")] == ["x.json"]


@pytest.mark.parametrize("key", ["../../x", "/tmp/x", "a/b", "", ".", "..", "a.tar"])
def test_keys_name_no_folders(key):
    with pytest.raises(ValueError, match="must be made of letters"):
        Item(key, "toybox:0")


def test_a_shard_with_paths_outside_is_only_read(tmp_path):
    from imagedream.workshop.training.shard_data import scan

    shard, outside = tmp_path / "data" / "shard-000000.tar", tmp_path / "outside"
    shard.parent.mkdir()
    with tarfile.open(shard, "w") as tar:
        for name in ("../outside/a.cameras.json", str(outside / "b.cameras.json")):
            member = tarfile.TarInfo(name)
            member.size = 2
            tar.addfile(member, io.BytesIO(b"{}"))
        link = tarfile.TarInfo("c.caption.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)

    def examine(members, where):
        return where

    scan(shard, examine)
    assert [path.name for path in tmp_path.rglob("*")] == ["data", shard.name]


def test_a_mesh_reads_no_file_outside_its_folder(tmp_path):
    secret = tmp_path / "secret.bin"
    points = np.zeros((3, 3), np.float32)
    points[1, 0] = points[2, 1] = 1
    secret.write_bytes(points.tobytes())
    folder = tmp_path / "meshes"
    folder.mkdir()

    def write(uri):
        scene = {
            "asset": {"version": "2.0"},
            "buffers": [{"uri": uri, "byteLength": 36}],
            "bufferViews": [{"buffer": 0, "byteLength": 36}],
            "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}],
            "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
            "nodes": [{"mesh": 0}],
            "scenes": [{"nodes": [0]}],
        }
        (folder / "mesh.gltf").write_text(json.dumps(scene))
        return folder / "mesh.gltf"

    for uri in ("../secret.bin", str(secret), "x/../../secret.bin", "http://127.0.0.1:9/secret.bin"):
        with pytest.raises(meshes.MeshError):
            meshes.load_parts(write(uri))
    os.mkfifo(folder / "queue.bin")  # which would be waited for without end
    with pytest.raises(meshes.MeshError, match=r"its buffer queue\.bin is not there"):
        meshes.load_parts(write("queue.bin"))
    (folder / "beside.bin").write_bytes(secret.read_bytes())
    assert len(meshes.load_parts(write("beside.bin"))[0].faces) == 1


def test_a_usdz_is_only_read(tmp_path):
    pytest.importorskip("pxr", reason="the usdz extra is not installed")
    from imagedream.mesh.usdz import load_usdz

    with zipfile.ZipFile(tmp_path / "trap.usdz", "w") as archive:
        archive.writestr("../outside.txt", "x")
    with pytest.raises(Exception, match=r"\S"):
        load_usdz(tmp_path / "trap.usdz")
    assert [path.name for path in tmp_path.iterdir()] == ["trap.usdz"]


# --------------------------------------------------------------------------------------------- bounds


def png_header(width, height, mode=6):
    """A PNG file of a few bytes that claims a size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, mode, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def gif_header(width, height, frames=1):
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00"
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return head + frame * frames + b";"


def tiff_header(width, height):
    fields = [(256, 4, width), (257, 4, height)]
    fields += [(258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (279, 4, 1)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in fields)
    return b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + bytes(4)


def jpeg2000_header(width, height):
    sizes = struct.pack(">HIIIIIIIIH", 0, width, height, 0, 0, width, height, 0, 0, 1) + b"\x07\x01\x01"
    return b"\xff\x4f\xff\x51" + struct.pack(">H", len(sizes) + 2) + sizes


PIXELS = r"the limit is 120,000,000|120,000,000 pixels, the limit"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bomb.png", png_header(60000, 60000), PIXELS),
        ("bomb.png", png_header(11000, 11000), PIXELS),
        ("bomb.gif", gif_header(65535, 65535), PIXELS),
        ("bomb.tif", tiff_header(100000, 100000), PIXELS),
        ("many.gif", gif_header(1, 1, frames=500_000), "several frames"),
        (
            "bomb.jp2",
            jpeg2000_header(8000, 8000),
            "of JPEG2000 take 1,536,000,000 bytes to decode, the limit is 1,073,741,824",
        ),
        ("large.png", None, "has 268,435,457 bytes, the limit is 268,435,456"),
    ],
)
def test_pictures_are_bounded_before_they_are_decoded(name, content, message, tmp_path):
    with (tmp_path / name).open("wb") as file:
        file.write(content) if content else file.truncate(MAX_BYTES + 1)  # takes no room on the disk
    with pytest.raises(ImagePromptError, match=message):
        load_image_prompt(tmp_path / name)


def test_pictures_of_data_sets_are_bounded():
    for side, allowed in ((64, 64), (None, 4096)):
        with pytest.raises(SampleError, match=f"9000 x 9000 pixels, must be {allowed} x {allowed}"):
            decode_png(png_header(9000, 9000), side, "a.png")


def test_meshes_are_bounded(tmp_path):
    with (tmp_path / "large.stl").open("wb") as file:
        file.truncate(mesh_source.MAX_BYTES + 1)
    with pytest.raises(meshes.MeshError, match="has 1,073,741,825 bytes, the limit is 1,073,741,824"):
        meshes.load_parts(tmp_path / "large.stl")
    for count in (10**12, 99_999_999):  # which no data is behind
        square = Scene()
        del square.tree["accessors"][0]["bufferView"]
        square.tree["accessors"][0]["count"] = count
        with pytest.raises(meshes.MeshError, match=f"claims {count + 6:,} .* the limit is 30,000,000"):
            meshes.load_parts(square.write(tmp_path / "bomb.glb"))
    square = Scene(TEXTURED, image=png_header(8000, 8000))
    view = square.view(png_header(8000, 8000))
    square.tree["images"].append({"bufferView": view})
    square.tree["textures"].append({"source": 1})
    square.tree["materials"][0] |= {"emissiveFactor": [1, 1, 1], "emissiveTexture": {"index": 1}}
    with pytest.raises(meshes.MeshError, match="textures have more than 120,000,000 pixels in all"):
        meshes.load_parts(square.write(tmp_path / "bomb.glb"))
    for header in ("element vertex 1000000000000", "element face 1000000000000"):
        text = f"ply\nformat binary_little_endian 1.0\n{header}\nproperty float x\nend_header\n"
        (tmp_path / "bomb.ply").write_text(text)
        with pytest.raises(meshes.MeshError, match="000,000,000,000 vertices and indices, the limit"):
            meshes.load_parts(tmp_path / "bomb.ply")


# --------------------------------------------------------------------------------- pages and the network

XSS = "\"'><img src=x onerror=alert(1)></script><script>alert(2)</script>${title}"


def test_a_report_shows_names_as_text(tmp_path):
    trimesh.creation.box().export(tmp_path / "model.glb")
    glb = tmp_path / "\"'><img src=x onerror=alert(1)>.glb"
    (tmp_path / "model.glb").rename(glb)
    picture = PIL.Image.new("RGB", (8, 8))
    file = {"file": XSS, "faces": 1, "psnr_db": 1.0, "silhouette_iou": 1.0, "solid": {"watertight": True}}
    page = write_report(
        tmp_path / "report.html",
        title=XSS,
        prompts=[picture],
        views=[picture] * 4,
        view_names=[XSS] * 4,
        snapshots=[(XSS, picture)],
        mesh=glb,
        mesh_record={"warnings": [XSS], "files": [file]},
        timings={XSS: 1.0},
        settings={XSS: {XSS: XSS}},
        warnings=[XSS],
    ).read_text()
    body = page[: page.index('<script type="module">')]
    assert "<img src=x" not in body
    assert "alert(2)</script>" not in body
    assert body.count("<script>") == 1  # the page's own
    assert "&#34;&#39;&gt;&lt;img src=x" in body


def test_pages_ask_nobody_for_anything(tmp_path):
    page = write_report(tmp_path / "report.html", title="a lamp").read_text()
    batch = (ROOT / "custom/threestudio-imagedream/imagedream/report/page/batch.html").read_text()
    for text in (page, batch):
        policy = text.partition('Content-Security-Policy" content="')[2].partition('"')[0]
        assert policy.startswith("default-src 'none'")
        assert "http:" not in policy
        assert "https:" not in policy
        assert "*" not in policy


LISTENER = """
import runpy, sys
def hook(event, arguments):
    # urllib3 tries at its import whether this machine has IPv6: bound to ::1 and closed at once, never listened on
    if event == "socket.bind" and sys._getframe(1).f_code.co_name == "_has_ipv6":
        return
    if event in ("socket.bind", "socket.connect", "socket.getaddrinfo", "socket.sendto"):
        sys.stderr.write(f"NETWORK {event} {arguments}\\n")
sys.addaudithook(hook)
if sys.argv[1] == "socket":
    import socket
    socket.socket().bind(("127.0.0.1", 0))
else:
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_opens_no_socket(tiny_model, tmp_path):
    from tests.workshop.test_batch import SMALL

    (tmp_path / "listener.py").write_text(LISTENER)
    listen = [sys.executable, str(tmp_path / "listener.py")]
    assert "NETWORK" in subprocess.run([*listen, "socket"], capture_output=True, text=True, timeout=60).stderr
    command = [*listen, str(ROOT / "launch.py"), "--config", "imagedream-toybox.yaml", *SMALL]
    command += [f"system.prompt_processor.image_path={ROOT / 'launch_examples' / 'car.png'}"]
    command += [f"system.guidance.weights={tiny_model}", f"exp_root_dir={tmp_path}", "tag=t"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=800, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.rglob("report.html"))
    assert "NETWORK" not in result.stderr
