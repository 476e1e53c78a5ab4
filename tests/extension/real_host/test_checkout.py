"""What is said of a threestudio checkout before it is run; on small made-up ones."""

import sys
from pathlib import Path

import pytest
import real_threestudio

import launch

ROOT = Path(__file__).parents[3]


@pytest.fixture
def checkout(tmp_path):
    """A folder with the outlines of a threestudio."""
    files = {
        "launch.py": "",
        "threestudio/__init__.py": '__version__ = "0.2.3"\nfrom . import systems',
        "threestudio/systems/__init__.py": "from . import base",
        "threestudio/systems/base.py": (
            "import os\nimport torch\nimport absent_at_top.part\nfrom extern.zero import inner\n"
            "from ..utils.misc import C\n\ndef late():\n    import absent_but_late"
        ),
        "threestudio/utils/__init__.py": "",
        "threestudio/utils/misc.py": "try:\n    import absent_but_caught\nexcept ImportError:\n    pass\nfrom tinycudann import x",
        "threestudio/unused.py": "import absent_but_never_imported",
        "extern/zero/inner.py": "from absent_outside import x",
        "custom/other/__init__.py": 'register("imagedream-system")',
        "custom/clone/custom/threestudio-imagedream/system.py": 'register("imagedream-system")',
        "custom/third_disabled/__init__.py": 'register("imagedream-system")',
        "custom/notes.txt": 'register("imagedream-system")',
        "load/lights.txt": "",
    }
    for name, text in files.items():
        path = tmp_path / "threestudio-main" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "threestudio-main"


def test_missing_packages_are_those_that_an_import_would_need(checkout):
    assert real_threestudio.missing_packages(checkout) == {
        "absent_at_top": "threestudio/systems/base.py",
        "absent_outside": "extern/zero/inner.py",
        "tinycudann": "threestudio/utils/misc.py",
    }
    with pytest.raises(ValueError, match="tinycudann is missing") as caught:
        real_threestudio.check(checkout, set())
    command = str(caught.value).rpartition("Mend it with: ")[2]
    assert command == (
        'pip install absent_at_top absent_outside "git+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch"'
    )


@pytest.mark.parametrize(
    ("cuda", "nerfacc", "tinycudann", "problem"),
    [
        (True, "_C = None", "", "ImportError: nerfacc was installed without its CUDA part, for want of nvcc"),
        (
            True,
            "_C = 1",
            "raise ImportError('no extension for compute capability 90')",
            "ImportError: no extension for compute capability 90",
        ),
        (True, "_C = 1", "Encoding = lambda *_: lambda x: x", None),
        (False, "_C = None", "raise OSError('Unknown compute capability')", None),
    ],
)
def test_compiled_parts_that_cannot_use_the_gpu(tmp_path, monkeypatch, cuda, nerfacc, tinycudann, problem):
    files = {
        "torch.py": f"class cuda: is_available = lambda: {cuda}\nzeros = lambda *_, device: 0",
        "nerfacc/__init__.py": "",
        "nerfacc/cuda/__init__.py": "",
        "nerfacc/cuda/_backend.py": nerfacc,
        "tinycudann.py": tinycudann,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert real_threestudio.why_no_cuda() == problem


def test_clashes_are_those_that_the_config_meets():
    installed = {clash.distribution for clash in real_threestudio.clashes({"stable-diffusion-vsd-guidance"})}
    assert "diffusers" in installed
    assert "diffusers" not in {
        clash.distribution for clash in real_threestudio.clashes({"imagedream-system"})
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '__version__ = "0.1.0"',
            "DIR is threestudio 0.1.0, which loads no extensions; needed is 0.2.0 or newer",
        ),
        ("", "DIR is a threestudio from before 0.2.0"),
        (None, "DIR is no threestudio: it has no launch.py and threestudio/__init__.py"),
    ],
)
def test_other_folders_are_errors(checkout, text, message):
    package = checkout / "threestudio" / "__init__.py"
    package.unlink() if text is None else package.write_text(text)
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        real_threestudio.check_folder(checkout, "DIR")


def test_other_versions_are_named(checkout):
    assert real_threestudio.check_folder(checkout, "DIR") is None
    (checkout / "threestudio" / "__init__.py").write_text("__version__ = '0.3.0'")
    assert real_threestudio.check_folder(checkout, "DIR") == "DIR is threestudio 0.3.0, tested is 0.2.3"


def test_a_name_registered_twice_is_found(checkout):
    found = real_threestudio.registering(checkout, "imagedream-system")
    assert [entry.name for entry in found] == ["clone", "other"]


def test_the_checkout_stays_as_it_is(checkout, tmp_path):
    before = sorted(checkout.rglob("*"))
    extension, cache = ROOT / "custom" / "threestudio-imagedream", tmp_path / ".threestudio_cache"
    with real_threestudio.working_folder(checkout, extension, cache) as folder:
        assert (folder / "custom" / "threestudio-imagedream").resolve() == extension
        assert (folder / "custom" / "other" / "__init__.py").is_file()
        assert (folder / "load" / "lights.txt").is_file()
        (folder / cache.name / "new").write_text("kept")
    assert sorted(checkout.rglob("*")) == before
    assert (cache / "new").is_file()
    # a copy that was put there by hand is the one that counts
    (checkout / "custom" / "threestudio-imagedream").mkdir()
    with real_threestudio.working_folder(checkout, extension, cache) as folder:
        assert not (folder / "custom" / "threestudio-imagedream").resolve().samefile(extension)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threestudio", "{nowhere}"], "is no threestudio"),
        (["--threestudio={checkout}"], "tinycudann is missing (imported by threestudio/utils/misc.py)"),
    ],
)
def test_the_command_line_ends_in_one_line(checkout, tmp_path, capsys, arguments, message):
    arguments = [a.format(nowhere=tmp_path / "nowhere", checkout=checkout) for a in arguments]
    picture = f"system.prompt_processor.image_path={ROOT / 'launch_examples' / 'robot.png'}"
    assert launch.main(["--config", "imagedream-toybox.yaml", *arguments, picture]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
