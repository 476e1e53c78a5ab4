"""`app`: the web page of this machine."""

import importlib.util
import logging
import os
import secrets
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Interval

from imagedream.cli.verb import Verb, choose_device, say

logger = logging.getLogger(__name__)

PASSWORD = "IMAGEDREAM_APP_PASSWORD"
"""Environment variable with the password of the page, which otherwise is drawn."""


@dataclass(frozen=True)
class App(Verb):
    """A web page on this machine: drop a picture, pick its views, make the model, take it home; needs `imagedream[app]`."""

    address: str = "127.0.0.1"
    """To listen on; any other than this machine's own asks for a password, user `imagedream`, of $IMAGEDREAM_APP_PASSWORD or drawn."""
    port: Annotated[int, Interval(ge=1, le=65535)] = 7860
    share: bool = False
    """Through gradio's servers, for everybody who knows address and password."""
    folder: Path = Path("outputs/app")
    """Where the runs are kept."""
    weights: str = "toybox"
    """As of `views`."""
    configs: tuple[str, ...] = ()
    """Files in configs/ to choose from; by default those for the weights."""
    device: str = "auto"
    """Of the views: `auto`, `cpu`, `cuda`, ..."""

    def run(self) -> None:  # noqa: D102
        check_port(self.address, self.port)
        if importlib.util.find_spec("gradio") is None:
            raise ImportError("the page needs gradio: pip install 'imagedream[app]'")
        from imagedream import checkpoints
        from imagedream.runs.disk_space import LEAST_FREE_BYTES, check_folder
        from imagedream.runs.locks import locked
        from imagedream.runs.project import project_folder

        checkpoints.check(self.weights)
        device = choose_device(self.device)
        check_folder(self.folder, LEAST_FREE_BYTES)
        password = None
        if self.share or self.address not in ("127.0.0.1", "localhost", "::1"):
            password = os.environ.get(PASSWORD) or secrets.token_urlsafe(12)
            logger.warning(
                "the page is open to other machines, which may use this one and see all runs; user imagedream, password %s",
                f"as in ${PASSWORD}" if PASSWORD in os.environ else password,
            )
        page = load_page(project_folder() / "app")
        with locked(self.folder, "page"):
            page.serve(
                self.folder,
                self.weights,
                self.configs,
                device,
                self.address,
                self.port,
                self.share,
                password,
                opened=say,
            )


def check_port(address: str, port: int) -> None:
    """Raise a ValueError unless a server can listen there."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((address, port))
        except (OSError, OverflowError) as error:
            raise ValueError(
                f"--address {address} --port {port}: {error}; name another, as --port 7861"
            ) from error


def load_page(folder: Path) -> Any:
    """`app/page.py`, which lies beside `launch.py` and is no part of the library."""
    name = "imagedream_app"
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    if spec is None or spec.loader is None or not (folder / "page.py").is_file():
        raise FileNotFoundError(f"there is no web page in {folder}")
    if name not in sys.modules:
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return importlib.import_module(f"{name}.page")
