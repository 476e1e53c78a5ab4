"""Examples in docstrings are true."""

import doctest
import importlib
from pathlib import Path

import pytest

import imagedream

ROOT = Path(imagedream.__file__).parent
MODULES = [
    ".".join(("imagedream", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for file in sorted(ROOT.rglob("*.py"))
    if ">>>" in file.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
