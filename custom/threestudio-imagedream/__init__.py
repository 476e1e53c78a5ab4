"""threestudio extension: one picture becomes a textured 3D model (ImageDream). Importing it registers its modules."""

import importlib.util
import sys
from pathlib import Path

from packaging.version import Version

import threestudio

MINIMUM_THREESTUDIO = "0.2.0"

_found = getattr(threestudio, "__version__", "before 0.2.0")
if not hasattr(threestudio, "__version__") or Version(_found) < Version(MINIMUM_THREESTUDIO):
    raise ValueError(f"threestudio is {_found}, threestudio-imagedream needs {MINIMUM_THREESTUDIO} or newer")

_there = getattr(threestudio, "__modules__", {}).get("imagedream-system")
if _there is not None:
    raise ValueError(
        f"imagedream-system is already registered by {_there.__module__}, {__name__} would register it again: "
        "keep one of them in custom/, and rename the other to ..._disabled"
    )

if importlib.util.find_spec("imagedream") is None:
    # the library lies beside this file; last on the path, so that its neighbours hide nobody's modules
    sys.path.append(str(Path(__file__).parent))

from . import (  # noqa: E402
    background,
    data,
    exporter,
    fork,
    guidance,
    guidances,
    prompt_processor,
    reconstruction,
    reference,
    system,
)

__all__ = [
    "background",
    "data",
    "exporter",
    "fork",
    "guidance",
    "guidances",
    "prompt_processor",
    "reconstruction",
    "reference",
    "system",
]
