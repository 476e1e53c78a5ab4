"""The log of a run, and the user's mistakes."""

import logging
import sys

import threestudio


class UsageError(ValueError):
    """A command line that cannot be run."""


class CustomModuleError(ImportError):
    """An extension in `custom/` that cannot be imported."""


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
