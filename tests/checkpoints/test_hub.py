"""Weights from the hub: a server on this machine speaks the hub's protocol, huggingface_hub's own client reads it."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from imagedream import checkpoints
from imagedream.checkpoints import hub
from tests.checkpoints.published import reduced_pipeline, write_diffusers, write_official

COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """Serves the folder `server.files/OWNER/NAME` as the repository OWNER/NAME."""

    def do_GET(self):
        self.server.requests.append((self.command, self.path, self.headers.get("Range")))
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self.repository("/".join(parts[2:4]), parts[4:])
        else:
            self.file(self.server.files / "/".join(parts[:2]) / "/".join(parts[4:]))

    do_HEAD = do_GET

    def repository(self, name, what):
        root = self.server.files / name
        files = [file for file in sorted(root.rglob("*")) if file.is_file()] if root.is_dir() else []
        if not files:
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        names = [str(file.relative_to(root)) for file in files]
        if what[:1] == ["tree"]:
            body = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": "0" * 40}
                for name, file in zip(names, files, strict=True)
            ]
        else:
            body = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
        return self.answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def file(self, path):
        if not path.is_file():
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        body = path.read_bytes()
        headers = {
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{hashlib.sha256(body).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        if wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            return self.answer(206, body[start:], headers)
        return self.answer(200, body, headers)

    def answer(self, code, body, headers):
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.requests = tmp_path / "hub", []
    server.files.mkdir()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def run(code: str, server, tmp_path: Path, **environment) -> subprocess.CompletedProcess:
    """Code in a process of its own: the hub's client reads its settings when it is imported."""
    settings = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
        **environment,
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )


LOAD = """
import sys, warnings
from imagedream import checkpoints
try:
    pipeline = checkpoints.load({source!r})
    print(pipeline.unet.config.controllers, pipeline.unet.unet.conv_in.weight.sum().item())
except checkpoints.CheckpointError as error:
    print("error:", error)
"""


def test_a_file_is_downloaded_once_and_then_read_offline(server, tmp_path):
    original = reduced_pipeline("pixel")
    (server.files / "someone" / "model").mkdir(parents=True)
    write_official(original, server.files / "someone" / "model" / "weights.pt")
    code = LOAD.format(source="someone/model/weights.pt")
    expected = f"pixel {original.unet.unet.conv_in.weight.sum().item()}"
    first = run(code, server, tmp_path)
    assert first.stdout.strip() == expected, first.stderr
    asked = len(server.requests)
    offline = run(code, server, tmp_path, HF_HUB_OFFLINE="1")
    assert offline.stdout.strip() == expected, offline.stderr
    assert len(server.requests) == asked


def test_a_folder_is_downloaded_without_what_is_not_needed(server, tmp_path):
    folder = server.files / "someone" / "converted"
    folder.mkdir(parents=True)
    original = reduced_pipeline("pixel")
    write_diffusers(original, folder, "split")
    (folder / "unet" / "model.bin").write_bytes(b"the same weights in another form")
    (folder / "preview.png").write_bytes(b"a picture")
    done = run(LOAD.format(source="someone/converted"), server, tmp_path)
    assert done.stdout.startswith("pixel"), done.stdout + done.stderr
    fetched = {
        path.split("/resolve/")[1]
        for verb, path, _ in server.requests
        if "/resolve/" in path and verb == "GET"
    }
    assert not any(path.endswith(("model.bin", "preview.png")) for path in fetched)
    assert any(path.endswith("ip-adapter-plus_imagedream.bin") for path in fetched)


def test_what_is_not_there_is_one_line(server, tmp_path):
    for source, environment in (
        ("someone/nothing/weights.pt", {}),
        ("someone/nothing", {"HF_HUB_OFFLINE": "1"}),
    ):
        done = run(LOAD.format(source=source), server, tmp_path, **environment)
        assert done.stdout.startswith(f"error: {source} is no path here, and as an id"), done.stderr
        assert len(done.stdout.strip().splitlines()) == 1


def test_a_damaged_download_is_removed(tmp_path, caplog):
    file = tmp_path / "sd-v2.1-base-4view-ipmv.pt"
    file.write_bytes(b"something else")
    known = hub.PUBLISHED[file.name]
    with pytest.raises(
        checkpoints.CheckpointError, match=r"damaged: its sha256 begins with \w{8} instead of 43d00758"
    ):
        hub._check_hash(file, known, known.repository)
    assert not file.exists()


def test_the_hash_in_the_hubs_cache_tells_local_from_pixel(tmp_path):
    blob = tmp_path / ("54f2338a" + "0" * 56)
    blob.write_bytes(b"")
    (tmp_path / "renamed.pt").symlink_to(blob)
    assert hub.published_controllers(tmp_path / "renamed.pt") == "local"
    assert hub.published_controllers(blob.with_name("other.pt")) is None


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("toybox", hub.TOYBOX),
        ("owner/name", None),
        ("owner/name/folder/file.pt", None),
        ("weights.pt", Path("weights.pt")),
        ("/nowhere/model.pt", Path("/nowhere/model.pt")),
        ("a/b.pt", Path("a/b.pt")),
        ("./a/b", Path("a/b")),
        (Path("owner/name"), Path("owner/name")),
    ],
)
def test_paths_and_hub_ids(source, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checkpoints.local_path(source) == expected


def test_a_path_that_exists_wins_over_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert checkpoints.local_path("owner/name") == Path("owner/name")
