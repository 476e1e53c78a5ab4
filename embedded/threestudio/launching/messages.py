"""What the user gets to read: the log, and mistakes as one line."""

import logging
import sys
import traceback

import threestudio


class UsageError(ValueError):
    """A command line that cannot be run."""


class CustomModuleError(ImportError):
    """An extension in `custom/` that cannot be imported."""


class Quit(BaseException):
    """The user wants the program to end now; Lightning would swallow a KeyboardInterrupt."""


class _StderrHandler(logging.StreamHandler):
    """Writes above a running progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        if sys.stderr.isatty():
            tqdm.write(self.format(record), file=sys.stderr)
        else:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()


def set_up_logging(verbose: bool) -> None:
    """One handler for everybody, on stderr; `[LEVEL] message`."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _StderrHandler)]:
        root.removeHandler(handler)
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("[%(levelname)s] %(message)s"))
    root.addHandler(handler)
    threestudio.logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    for chatty in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.seed"):
        logging.getLogger(chatty).setLevel(logging.INFO if verbose else logging.WARNING)


def drop_lightning_handlers() -> None:
    """Lightning adds a handler of its own at import, which would print every message twice."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        for handler in list(logging.getLogger(name).handlers):
            logging.getLogger(name).removeHandler(handler)
        logging.getLogger(name).propagate = True


def is_user_error(error: BaseException) -> bool:
    """Whether the message alone tells the user what to do."""
    if isinstance(
        error, ValueError | OSError | MemoryError | CustomModuleError | threestudio.UnknownNameError
    ):
        return True
    if type(error).__module__.split(".")[0] in ("omegaconf", "yaml"):
        return True
    is_config_error = type(error).__name__ == "MisconfigurationException"
    return is_config_error or _is_weights_mismatch(error)


def _is_weights_mismatch(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and "Error(s) in loading state_dict" in str(error)


def one_line(error: BaseException) -> str:
    """The error's message on one line."""
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror + (f": {error.filename}" if error.filename else "")
    elif getattr(error, "full_key", None):  # omegaconf: the rest of its message is about its own types
        text = f"{error.full_key}: {str(error).splitlines()[0]}"
    else:
        text = str(error) or type(error).__name__
    if _is_weights_mismatch(error):
        text = "the checkpoint does not fit this config: " + text
    return " ".join(text.split())


def report_error(error: BaseException, verbose: bool) -> int:
    """One line on stderr, with `--verbose` the traceback before it; the exit code."""
    if verbose:
        traceback.print_exception(error)
    sys.stderr.write(f"error: {one_line(error)}\n")
    return 2
