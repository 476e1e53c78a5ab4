"""What a user gets to read when something goes wrong: one line where the message alone tells what to do."""

import sys
import traceback

USER_ERRORS = (ValueError, OSError, ImportError, MemoryError, FloatingPointError)
"""What is raised for what a user can put right."""


class Quit(SystemExit):
    """The user wants the program to end now: exit code 130. Lightning would make exit code 1 of a KeyboardInterrupt."""

    def __init__(self) -> None:
        super().__init__(130)


def is_user_error(error: BaseException) -> bool:
    """Whether the message alone tells the user what to do; a YAML file may be wrong in itself."""
    if isinstance(error, USER_ERRORS) or type(error).__module__.split(".")[0] in ("omegaconf", "yaml"):
        return True
    return type(error).__name__ == "MisconfigurationException" or _is_weights_mismatch(error)


def _is_weights_mismatch(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and "Error(s) in loading state_dict" in str(error)


def one_line(error: BaseException) -> str:
    """The error's message on one line."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif getattr(error, "full_key", None):  # omegaconf: the rest of its message is about its own types
        text = f"{error.full_key}: {str(error).splitlines()[0]}"
    else:
        text = str(error) or type(error).__name__
    if _is_weights_mismatch(error):
        text = f"the checkpoint does not fit this config: {text}"
    return " ".join(text.split())


def report_error(error: BaseException, program: str, verbose: bool) -> int:
    """Write one line to stderr, with `verbose` the traceback before it; the exit code of a user's mistake."""
    if verbose:
        traceback.print_exception(error)
    sys.stderr.write(f"{program}: {one_line(error)}\n")
    return 2
