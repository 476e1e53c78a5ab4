"""Files and folders appear complete or not at all."""

import pytest

from imagedream.runs.files import atomic_folder, atomic_path


def test_a_file_appears_complete_with_its_parents(tmp_path):
    target = tmp_path / "new" / "picture.png"
    with atomic_path(target) as temporary:
        assert temporary.suffix == ".png"
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert [path.name for path in target.parent.iterdir()] == ["picture.png"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "model.glb"
    target.write_text("old")
    with pytest.raises(OSError, match="No space left"), atomic_path(target) as temporary:  # noqa: PT012
        temporary.write_text("ha")
        raise OSError("No space left on device")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_in_the_way_is_named(tmp_path):
    with pytest.raises(IsADirectoryError, match=str(tmp_path)), atomic_path(tmp_path):
        pass


def test_a_folder_appears_complete_or_not_at_all(tmp_path):
    target = tmp_path / "views"
    with pytest.raises(RuntimeError), atomic_folder(target) as temporary:  # noqa: PT012
        (temporary / "0.png").write_text("0")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(target) as temporary:
        (temporary / "0.png").write_text("0")
    assert [path.name for path in target.iterdir()] == ["0.png"]
    with pytest.raises(FileExistsError, match="exists already"), atomic_folder(target):
        pass
