"""Weights from the hub: a server on this machine speaks the hub's protocol, huggingface_hub's own client reads it."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import huggingface_hub
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


LOAD = """
from imagedream import checkpoints
for source in {sources!r}:
    try:
        pipeline = checkpoints.load(source)
        print(pipeline.unet.config.controllers, pipeline.unet.unet.conv_in.weight.sum().item())
    except checkpoints.CheckpointError as error:
        print("error:", error)
"""


def run(sources: list[str], server, folder: Path, **environment) -> list[str]:
    """A line for each source, loaded in a process of its own: the hub's client reads its settings when it is imported."""
    settings = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
        "HF_HOME": str(folder / "cache"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
        **environment,
    }
    done = subprocess.run(
        [sys.executable, "-c", LOAD.format(sources=sources)],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        cwd=folder,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(sources), done.stdout + done.stderr
    return lines


class Visit(NamedTuple):
    """What came of loading each source, and what was asked of the hub meanwhile."""

    lines: dict[str, str]
    requests: list[tuple[str, str, str | None]]


@pytest.fixture(scope="module")
def visits(tmp_path_factory):
    """The sum of a weight, and two visits: one with the hub in reach, then one without."""
    folder = tmp_path_factory.mktemp("hub")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.requests = folder / "files", []
    for name in ("model", "converted"):
        (server.files / "someone" / name).mkdir(parents=True)
    original = reduced_pipeline("pixel")
    write_official(original, server.files / "someone" / "model" / "weights.pt")
    converted = server.files / "someone" / "converted"
    write_diffusers(original, converted, "split")
    (converted / "unet" / "model.bin").write_bytes(b"the same weights in another form")
    (vae,) = (converted / "vae").glob("*.safetensors")
    vae.rename(vae.with_suffix(f".fp16{vae.suffix}"))  # some publish a part in half precision alone
    (converted / "preview.png").write_bytes(b"a picture")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found = []
    for sources, environment in (
        (
            [
                *("someone/model/weights.pt", "someone/model@v1/weights.pt", "someone/converted"),
                "someone/nothing/a.pt",
            ],
            {},
        ),
        (["someone/model/weights.pt", "someone/nothing"], {"HF_HUB_OFFLINE": "1"}),
    ):
        lines = run(sources, server, folder, **environment)
        found.append(Visit(dict(zip(sources, lines, strict=True)), server.requests[:]))
        server.requests.clear()
    server.shutdown()
    server.server_close()
    return original.unet.unet.conv_in.weight.sum().item(), *found


@pytest.mark.slow
def test_a_file_is_downloaded_once_and_then_read_offline(visits):
    total, online, offline = visits
    assert online.lines["someone/model/weights.pt"] == f"pixel {total}"
    assert online.lines["someone/model@v1/weights.pt"] == f"pixel {total}"
    assert any("/resolve/v1/weights.pt" in path for _, path, _ in online.requests)
    assert offline.lines["someone/model/weights.pt"] == f"pixel {total}"
    assert not offline.requests


@pytest.mark.slow
def test_a_folder_is_downloaded_without_what_is_not_needed(visits):
    _, online, _ = visits
    assert online.lines["someone/converted"].startswith("pixel")
    fetched = {
        path.split("/resolve/")[1]
        for verb, path, _ in online.requests
        if "/someone/converted/resolve/" in path and verb == "GET"
    }
    assert not any(path.endswith(("model.bin", "preview.png")) for path in fetched)
    assert any(path.endswith("ip-adapter-plus_imagedream.bin") for path in fetched)


@pytest.mark.slow
def test_what_is_not_there_is_one_line(visits):
    _, online, offline = visits
    for visit, source in ((online, "someone/nothing/a.pt"), (offline, "someone/nothing")):
        assert visit.lines[source].startswith(f"error: {source} is no path here, and as an id")


@pytest.mark.parametrize("source", ["someone/nothing", "someone/nothing@main/weights.pt"])
@pytest.mark.parametrize("answers", [False, True], ids=["refused", "silent"])
def test_without_network_it_ends_in_one_line_soon(source, answers, monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if not answers:
            server.close()
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "0.5")
        started = time.perf_counter()
        with pytest.raises(
            checkpoints.CheckpointError, match=r"could not be had: (the hub cannot|no answer)"
        ) as error:
            hub.fetch(source)
    assert time.perf_counter() - started < 5
    assert "\n" not in str(error.value)


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
        ("owner/name@v1.0", None),
        ("owner/name@refs/pr/3/file.pt", None),
        ("owner/name/folder/file.pt", None),
        ("weights.pt", Path("weights.pt")),
        ("/nowhere/model.pt", Path("/nowhere/model.pt")),
        ("a/b.pt", Path("a/b.pt")),
        ("./a/b", Path("a/b")),
        (Path("owner/name"), Path("owner/name")),
        ("outputs/train/part/model", Path("outputs/train/part/model")),  # no file of weights
    ],
)
def test_paths_and_hub_ids(source, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checkpoints.local_path(source) == expected


def test_a_path_that_exists_wins_over_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert checkpoints.local_path("owner/name") == Path("owner/name")
