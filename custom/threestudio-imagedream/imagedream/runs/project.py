"""Where the whole product lies that this library is a part of."""

from pathlib import Path

_LIBRARY = Path(__file__).resolve().parents[1]


def project_folder() -> Path:
    """The folder of `launch.py`, `configs/` and the extension: the checkout around the library, or what the wheel puts beside it.

    Raises:
        FileNotFoundError: the library lies alone.
    """
    checkout, installed = _LIBRARY.parents[2], _LIBRARY.parent / "threestudio_imagedream"
    for folder in (checkout, installed):
        if (folder / "launch.py").is_file() and (folder / "configs").is_dir():
            return folder
    raise FileNotFoundError(
        f"there is no launch.py in {checkout} or {installed}: this needs the whole project"
    )
