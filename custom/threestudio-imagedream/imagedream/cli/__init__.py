"""`imagedream VERB ...`, or `python -m imagedream VERB ...`: what this project does, from a shell.

A user's mistake ends in one line on stderr and exit code 2; `--verbose` adds the traceback. torch and diffusers are
imported inside the verbs that need them, so `--help` and typing errors answer at once.
"""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from operator import or_
from pydoc import locate
from typing import Annotated, Any

import tyro

from imagedream import __version__
from imagedream.cli.verb import Verb
from imagedream.runs.user_errors import Quit, is_user_error, report_error


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return ("warning: " if record.levelno >= logging.WARNING else "") + super().format(record)


@contextmanager
def _log(verb: Verb) -> Iterator[None]:
    """What the library logs goes to stderr, unless what the verb runs has a log of its own."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Line("%(message)s"))
    library = logging.getLogger("imagedream")
    level = library.level
    if not verb.logs_itself:
        library.addHandler(handler)
    library.setLevel(logging.DEBUG if verb.verbose else logging.INFO)
    logging.disable(logging.INFO if verb.quiet else logging.NOTSET)
    try:
        yield
    finally:
        library.removeHandler(handler)
        library.setLevel(level)
        logging.disable(logging.NOTSET)


VERBS = {
    "make": "imagedream.workshop.commands.make.Make",
    "app": "imagedream.workshop.commands.app.App",
    "prepare": "imagedream.cli.prepare.Prepare",
    "views": "imagedream.cli.views.Views",
    "convert": "imagedream.cli.convert.Convert",
    "batch": "imagedream.workshop.commands.batch.Batch",
    "render": "imagedream.workshop.commands.render.Render",
    "train": "imagedream.workshop.commands.train.Train",
    "assemble": "imagedream.workshop.commands.train.Assemble",
    "evaluate": "imagedream.workshop.commands.evaluate.Evaluate",
    "compare": "imagedream.workshop.commands.compare.Compare",
    "doctor": "imagedream.cli.doctor.Doctor",
}
"""Where each verb is. They are found by name, so that the core stands without the workshop."""


def _any_verb() -> Any:
    """The union of all verbs, each under its name."""
    verbs = [Annotated[locate(place), tyro.conf.subcommand(name)] for name, place in VERBS.items()]
    return reduce(or_, verbs)


def _with_home(argument: str) -> str:
    """A shell leaves the `~` of `--out=~/x` as it is."""
    option, _, value = argument.partition("=")
    if not option.startswith("--") or not value.startswith("~"):
        return argument
    from imagedream.runs.settings import with_home

    return f"{option}={with_home(value, option[2:].replace('-', '_'))}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: arguments without the program's name; None takes the process's own.

    Returns:
        Exit code: 0, 1 when `doctor` misses something, 2 for a user's mistake, 130 when interrupted.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments == ["--version"]:
        sys.stdout.write(f"imagedream {__version__}\n")
        return 0
    about = (
        "ImageDream: one picture becomes four views and a 3D model. --version says which this is, "
        "--tyro-print-completion bash|zsh|tcsh prints a completion script."
    )
    arguments = [_with_home(argument) for argument in arguments]
    verb = tyro.cli(_any_verb(), prog="imagedream", description=about, args=arguments)
    verb = getattr(verb, "what", verb)  # `evaluate` holds the verb
    with _log(verb):
        try:
            verb.check_numbers()
            return verb.run() or 0
        except Exception as error:
            if not is_user_error(error):
                raise
            return report_error(error, "imagedream", verb.verbose)
        except (KeyboardInterrupt, Quit):
            sys.stderr.write("imagedream: interrupted\n")
            return 130
