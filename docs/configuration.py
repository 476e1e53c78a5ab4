"""Writes docs/configuration.md from the docstrings under the fields of the config classes: python docs/configuration.py.

Sources are read as text, so nothing is imported and no class is built.
"""

import ast
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
EXTENSION = Path("custom/threestudio-imagedream")
TRAINING = EXTENSION / "imagedream/workshop/training"

NAMES = ("Config", "Settings", "Entry", "Options")
"""How names of classes of settings end."""

LEFT_OUT = ("fork.py",)
"""Keys of the official fork, which its own configs explain."""

PAGES = (
    (
        "A 3D run",
        "`configs/imagedream*.yaml`, and `key=value` on the command line of `launch.py`. A file with `base: other.yaml` says only what "
        "it changes of the other; `--preset NAME` changes what `configs/presets/NAME.yaml` says. What is not listed here (`system.geometry`, "
        "`system.renderer`, `trainer`, ...) is threestudio's and Lightning's. A value that changes over the run is a schedule, a list "
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


def fields(node: ast.ClassDef) -> list[tuple[str, str, str]]:
    """(name, default, explanation) of a dataclass's fields."""
    rows = []
    for field, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        explained = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        text = " ".join(str(after.value.value).split()) if explained else ""
        rows.append((field.target.id, default(field.value), text))
    return rows


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
            lines += [
                f"### {title}",
                "",
                f"[{path.name}](../{path})",
                "",
                "| key | default | what |",
                "| --- | --- | --- |",
            ]
            for name, value, text in fields(node):
                cells = [cell.replace("|", "\\|") for cell in (f"`{name}`", value, text)]
                lines.append(f"| {' | '.join(cells)} |")
            lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    (Path(sys.argv[1]) if sys.argv[1:] else PROJECT / "docs" / "configuration.md").write_text(
        page(), encoding="utf-8"
    )
