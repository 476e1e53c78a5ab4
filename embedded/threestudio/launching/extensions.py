"""Extensions: everything in `custom/`."""

import importlib.util
import sys
import traceback
from pathlib import Path

import threestudio
from threestudio.launching.messages import CustomModuleError


def load_custom_modules(folder: str | Path) -> list[str]:
    """Import everything in `custom/` (sorted; hidden and `*_disabled` entries skipped) and return its names.

    A folder `X` becomes the package `X`, hyphens and all; a file `y.py` becomes the module `custom/y`.

    Raises:
        CustomModuleError: one cannot be imported; what it had registered by then is forgotten.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return []
    names = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith((".", "__")) or entry.stem.endswith("_disabled"):
            continue
        if entry.is_dir() and (entry / "__init__.py").is_file():
            name, source, search = entry.name, entry / "__init__.py", [str(entry)]
        elif entry.suffix == ".py":
            name, source, search = f"{folder.name}/{entry.stem}", entry, None
        else:
            continue
        if getattr(sys.modules.get(name), "__file__", None) != str(source):
            _import_from(name, source, search)
        names.append(name)
    return names


def _import_from(name: str, source: Path, search: list[str] | None) -> None:
    spec = importlib.util.spec_from_file_location(name, source, submodule_search_locations=search)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    before = set(threestudio.__modules__)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        for inner in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
            del sys.modules[inner]
        for registered in set(threestudio.__modules__) - before:
            if threestudio.__modules__[registered].__module__.split(".")[0] == name:
                del threestudio.__modules__[registered]
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise CustomModuleError(
            f"custom module {name} cannot be imported: {type(error).__name__}: {error} ({where.filename}:{where.lineno})"
        ) from error
