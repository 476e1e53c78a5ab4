"""Writes docs/configuration.md from the docstrings under the fields of the config classes: python docs/configuration.py.

Sources are read as text: no class of settings is imported or built. What numbers are allowed is said by annotations.
"""

import ast
import sys
from pathlib import Path
from typing import Any

import annotated_types

from imagedream.runs import host_ranges, ranges

PROJECT = Path(__file__).resolve().parents[1]
EXTENSION = Path("custom/threestudio-imagedream")
TRAINING = EXTENSION / "imagedream/workshop/training"

NAMES = ("Config", "Settings", "Entry", "Options")
"""How names of classes of settings end."""

LEFT_OUT = ("fork.py",)
"""Keys of the official fork, which its own configs explain."""

KINDS = {**vars(annotated_types), **vars(ranges)}
"""What annotations of numbers are made of."""

PAGES = (
    (
        "A 3D run",
        "`configs/imagedream*.yaml`, and `key=value` on the command line of `launch.py`. A file with `base: other.yaml` says only what "
        "it changes of the other, or of a list of others; `--preset NAME` changes what `configs/presets/NAME.yaml` says. What is not listed here (`system.geometry`, "
        "`system.renderer`, `trainer`, ...) is threestudio's and Lightning's; of its numbers the last table says which are allowed. A value that changes over the run is a schedule, a list "
        "`[first step, value, value, last step]`.",
        (EXTENSION, EXTENSION / "imagedream/mesh"),
    ),
    (
        "A training",
        "`configs/train/*.yaml`, and `key=value` on the command line of `python -m imagedream train`.",
        (TRAINING,),
    ),
)


def config_classes(*folders: Path) -> list[tuple[str, Path, ast.ClassDef]]:
    """(first line of the docstring, file, class) of every class of settings in some folders."""
    found = []
    for path in (path for folder in folders for path in sorted((PROJECT / folder).glob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name.endswith(NAMES) and path.name not in LEFT_OUT:
                title = (ast.get_docstring(node) or node.name).split("\n")[0].rstrip(".")
                found.append((title, path.relative_to(PROJECT), node))
    return found


def fields(node: ast.ClassDef) -> list[tuple[str, str, str, str]]:
    """(name, default, what is allowed, explanation) of a dataclass's fields."""
    rows = []
    for field, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        explained = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        text = " ".join(str(after.value.value).split()) if explained else ""
        rows.append((field.target.id, default(field.value), allowed(field.annotation), text))
    return rows


def allowed(annotation: ast.expr) -> str:
    """Which numbers or words an annotation allows; empty where it does not say."""
    try:
        kind = eval(ast.unparse(annotation), {**KINDS})
    except NameError:
        return ""
    return words(kind) if ranges.limits(kind) else ""


def words(kind: Any) -> str:
    """The same words as in an error, without those that a table's reader knows."""
    return ranges.words(kind).replace(
        ", or a schedule [first step, value, value, last step] of such", ", or a schedule"
    )


def table(*rows: tuple[str, ...]) -> list[str]:
    """Lines of a table, the first row its head."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in [cells[0], ["---"] * len(cells[0]), *cells[1:]]]


def default(value: ast.expr | None) -> str:
    """A default as it stands in the source."""
    if value is None:
        return "must be given"
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        (made,) = [keyword.value for keyword in value.keywords if keyword.arg == "default_factory"]
        if isinstance(made, ast.Lambda):
            return f"`{ast.unparse(made.body)}`"
        return {"dict": "`{}`", "list": "`[]`"}.get(ast.unparse(made), "see there")
    return f"`{ast.unparse(value)}`"


def page() -> str:
    """The whole document."""
    lines = ["# Configuration", "", "Made from the code by `python docs/configuration.py`.", ""]
    for heading, introduction, folders in PAGES:
        lines += [f"## {heading}", "", introduction, ""]
        for title, path, node in config_classes(*folders):
            lines += [f"### {title}", "", f"[{path.name}](../{path})", ""]
            rows = [(f"`{name}`", *rest) for name, *rest in fields(node)]
            lines += [*table(("key", "default", "allowed", "what"), *rows), ""]
        if heading == PAGES[0][0]:
            rows = [(f"`{name}`", words(kind)) for name, kind in host_ranges.HOST_RANGES.items()]
            lines += ["### Numbers of threestudio and Lightning", "", *table(("key", "allowed"), *rows), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    (Path(sys.argv[1]) if sys.argv[1:] else PROJECT / "docs" / "configuration.md").write_text(
        page(), encoding="utf-8"
    )
