import pytest

import threestudio
from threestudio.launching.extensions import load_custom_modules
from threestudio.launching.messages import CustomModuleError


@pytest.fixture
def registry(monkeypatch):
    threestudio._load_builtin_modules()
    monkeypatch.setattr(threestudio, "__modules__", dict(threestudio.__modules__))


class Main:
    def who(self):
        return ["main"]


class SubA:
    def who(self):
        return ["a", *super().who()]


class SubB:
    def who(self):
        return ["b", *super().who()]


def test_register_find_and_mixin(registry):
    for name, cls in (("main", Main), ("a", SubA), ("b", SubB)):
        assert threestudio.register(name)(cls) is cls
    assert threestudio.find("main") is Main
    assert threestudio.find("main:a")().who() == ["a", "main"]
    mixed = threestudio.find("main:a,b")
    assert mixed().who() == ["a", "b", "main"]
    assert mixed.__name__ == "Main.a,b"
    assert mixed.__bases__ == (SubA, SubB, Main)


def test_a_name_is_taken_once(registry):
    threestudio.register("main")(Main)
    with pytest.raises(ValueError, match=r"Names of extensions conflict: 'main'.*Main.*SubA"):
        threestudio.register("main")(SubA)
    with pytest.raises(ValueError, match="RandomCameraDataModule"):  # known before it is imported
        threestudio.register("random-camera-datamodule")(SubA)


def test_unknown_names_list_the_known():
    with pytest.raises(KeyError) as caught:
        threestudio.find("random-camera")
    assert str(caught.value).startswith("nothing is registered as 'random-camera'; known: ")
    assert "random-camera-datamodule" in str(caught.value)
    for malformed in ("a:b:c", ":a", "a:"):
        with pytest.raises(ValueError, match="is not a mixin"):
            threestudio.find(malformed)


def test_custom_modules(registry, tmp_path):
    folder = tmp_path / "custom"
    (folder / "my-extension").mkdir(parents=True)
    (folder / "my-extension" / "__init__.py").write_text("from .inner import X\n")
    (folder / "my-extension" / "inner.py").write_text(
        "import threestudio\n@threestudio.register('my-x')\nclass X: pass\n"
    )
    (folder / "off_disabled").mkdir()
    (folder / "off_disabled" / "__init__.py").write_text("raise RuntimeError\n")
    (folder / ".hidden").mkdir()
    (folder / "single.py").write_text("import threestudio\n@threestudio.register('my-y')\nclass Y: pass\n")
    assert load_custom_modules(folder) == ["my-extension", "custom/single"]
    assert threestudio.find("my-x").__module__ == "my-extension.inner"
    assert threestudio.find("my-y").__module__ == "custom/single"
    load_custom_modules(folder)  # a second time is no conflict
    assert load_custom_modules(tmp_path / "nothing") == []


def test_a_broken_custom_module_is_an_error_and_leaves_nothing(registry, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").write_text(
        "import threestudio\n@threestudio.register('half')\nclass X: pass\nimport no_such_thing\n"
    )
    with pytest.raises(
        CustomModuleError, match=r"custom module broken cannot be imported: ModuleNotFoundError.*:4\)"
    ):
        load_custom_modules(tmp_path)
    with pytest.raises(KeyError):
        threestudio.find("half")
