"""What a user gets to read when something goes wrong: one line where the message alone tells what to do."""

import sys
import traceback

from imagedream.runs.out_of_memory import is_out_of_memory, requested

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
    if type(error).__name__ == "MisconfigurationException" or _is_weights_mismatch(error):
        return True
    return is_out_of_memory(error) or _is_of_a_checkpoint(error)


def _is_weights_mismatch(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and "Error(s) in loading state_dict" in str(error)


def _is_of_a_checkpoint(error: BaseException) -> bool:
    """Whether it was raised while Lightning put a run into the state of a checkpoint."""
    frames = (frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(
        "checkpoint_connector" in code.co_filename
        and code.co_name.startswith(("restore", "_restore", "resume"))
        for code in frames
    )


def one_line(error: BaseException) -> str:
    """The error's message on one line."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif getattr(error, "full_key", None):  # omegaconf: the rest of its message is about its own types
        text = f"{error.full_key}: {str(error).splitlines()[0]}"
    else:
        text = str(error) or type(error).__name__
    if is_out_of_memory(error) and (isinstance(error, RuntimeError) or "out of memory" not in text):
        text = f"out of memory: {requested(error)}"
    elif _is_of_a_checkpoint(error) and not isinstance(error, USER_ERRORS):
        text = f"the checkpoint cannot be resumed: {type(error).__name__}: {text}"
    if _is_weights_mismatch(error):
        text = f"the checkpoint does not fit this config: {text}"
    return " ".join(text.split())


def report_error(error: BaseException, program: str, verbose: bool) -> int:
    """Write one line to stderr, with `verbose` the traceback before it.

    Returns:
        The exit code: 2 for a user's mistake, 1 where there was not enough memory.
    """
    if verbose:
        traceback.print_exception(error)
    sys.stderr.write(f"{program}: {one_line(error)}\n")
    return 1 if is_out_of_memory(error) else 2
