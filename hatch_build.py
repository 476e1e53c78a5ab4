"""The wheel holds the whole product: the library, and beside it what lies around it here."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

EXTENSION = "custom/threestudio-imagedream"


class WholeProduct(BuildHookInterface):
    """Adds launcher, configs, embedded host, extension and page, laid out as here.

    They get a folder of their own, which is no package, so that no real `threestudio` is hidden.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the files; an editable installation uses this folder itself."""
        if version == "editable":
            return
        root = Path(self.root)
        modules = [f"{EXTENSION}/{path.name}" for path in sorted((root / EXTENSION).glob("*.py"))]
        examples = [f"launch_examples/{name}.png" for name in ("car", "house", "mug", "robot")]
        for place in ("launch.py", "configs", "embedded", "app", *examples, *modules):
            build_data["force_include"][str(root / place)] = f"threestudio_imagedream/{place}"
