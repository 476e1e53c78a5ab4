"""`python -m imagedream VERB ...`: what the library does, from a shell.

A user's mistake ends in one line on stderr and exit code 2; `--verbose` adds the traceback. torch and diffusers are
imported inside the verbs that need them, so `--help` and typing errors answer at once.
"""

import logging
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import tyro

from imagedream.cli.batch import Batch
from imagedream.cli.convert import Convert
from imagedream.cli.doctor import Doctor
from imagedream.cli.evaluate import Evaluate
from imagedream.cli.prepare import Prepare
from imagedream.cli.render import Render
from imagedream.cli.train import Assemble, Train
from imagedream.cli.views import Views

USER_ERRORS = (ValueError, OSError, ImportError, MemoryError, FloatingPointError)
"""What the library raises for what a user can put right."""


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return ("warning: " if record.levelno >= logging.WARNING else "") + super().format(record)


@contextmanager
def _logging_to_stderr(verbose: bool) -> Iterator[None]:
    handler = logging.StreamHandler()
    handler.setFormatter(_Line("%(message)s"))
    library = logging.getLogger("imagedream")
    level = library.level
    library.addHandler(handler)
    library.setLevel(logging.DEBUG if verbose else logging.INFO)
    try:
        yield
    finally:
        library.removeHandler(handler)
        library.setLevel(level)


def _is_user_error(error: Exception) -> bool:
    """Whether the message alone tells the user what to do; a YAML file may be wrong in itself."""
    return isinstance(error, USER_ERRORS) or type(error).__module__.split(".")[0] in ("yaml", "omegaconf")


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error) or type(error).__name__
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


AnyVerb = (
    Annotated[Prepare, tyro.conf.subcommand("prepare")]
    | Annotated[Views, tyro.conf.subcommand("views")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Batch, tyro.conf.subcommand("batch")]
    | Annotated[Render, tyro.conf.subcommand("render")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Assemble, tyro.conf.subcommand("assemble")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: arguments without the program's name; None takes the process's own.

    Returns:
        Exit code: 0, 1 when `doctor` misses something, 2 for a user's mistake, 130 when interrupted.
    """
    verb = tyro.cli(AnyVerb, prog="imagedream", description="ImageDream: one picture, four views.", args=argv)
    with _logging_to_stderr(verb.verbose):
        try:
            return verb.run() or 0
        except Exception as error:
            if not _is_user_error(error):
                raise
            if verb.verbose:
                traceback.print_exc()
            sys.stderr.write(f"imagedream: {_one_line(error)}\n")
            return 2
        except KeyboardInterrupt:
            sys.stderr.write("imagedream: interrupted\n")
            return 130
