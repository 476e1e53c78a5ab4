"""One process a folder; what killed ones leave is removed by the next."""

import os
import signal
import sys
import tempfile
import time

import pytest

from imagedream.runs.files import atomic_folder, atomic_path
from imagedream.runs.locks import locked, temporary_folder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="os.fork")


@pytest.fixture
def killed():
    """Runs a function in a process that is killed in the middle of it."""

    def run(function):
        ready, told = os.pipe()
        process = os.fork()
        if process == 0:
            function(lambda: os.write(told, b"x") and time.sleep(100))
            os._exit(0)
        assert os.read(ready, 1) == b"x"
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)

    return run


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("beside", [False, True])
def test_a_folder_is_locked_while_somebody_works_there(tmp_path, killed, beside):
    folder = tmp_path / "trial"

    def work(now):
        with (
            locked(folder, "run", beside),
            atomic_path(folder / "save" / "a.png") as a,
            atomic_folder(folder / "b") as b,
        ):
            a.write_text("half")
            (b / "c").write_text("half")
            with pytest.raises(
                ValueError, match=f"{folder}: another run is at work there; wait for it or name"
            ):
                locked(folder, "run", beside).__enter__()
            now()

    killed(work)
    (folder / ".mine").touch()
    assert len(list(tmp_path.rglob("*.unfinished-*"))) == 2
    with locked(folder, "run", beside):
        assert not list(tmp_path.rglob("*unfinished*"))
    assert {path.name for path in tmp_path.rglob("*")} == {"trial", "save", ".mine"}


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_temporary_folders_go_with_their_process_or_with_the_next(tmp_path, killed, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "imagedream-theirs").mkdir()

    def work(now):
        with temporary_folder() as folder:
            (folder / "model.glb").touch()
            now()

    killed(work)
    assert len(list(tmp_path.rglob("model.glb"))) == 1
    with temporary_folder() as first, temporary_folder() as second:
        assert not list(tmp_path.rglob("model.glb"))
        assert first.is_dir()
        assert second.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["imagedream-theirs"]
