"""What is said when weights do not fit."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from imagedream.runs.user_errors import one_line

_GROUPS = 4
"""Of names that a message tells."""


class CheckpointError(ValueError):
    """Weights that are not there or are not what they should be; the message says what to do."""


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Whatever damaged or hostile files make a library raise becomes a CheckpointError that begins with `what`."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
        raise CheckpointError(f"{what}: {kind}{one_line(error)[:300]}") from error


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise CheckpointError if a tensor holds NaN or infinity; at a tenth of the price of `isfinite` if it does not."""
    if tensor.numel() and not torch.stack(torch.aminmax(tensor)).isfinite().all():
        count = int((~tensor.isfinite()).sum())
        raise CheckpointError(
            f"{name}: {count} of {tensor.numel()} numbers are not finite in {str(tensor.dtype).removeprefix('torch.')}"
        )


def differences(
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    unexpected: Iterable[str] = (),
) -> str | None:
    """A short account of names and shapes that do not agree, grouped by prefix; None if all do.

    Args:
        expected: shapes by name that a model has.
        found: shapes by name that a source has for it.
        unexpected: names in the source, in its own spelling, that no part of the model takes.
    """
    lines = []
    for what, names in (
        ("missing", expected.keys() - found.keys()),
        ("unexpected", {*unexpected, *(found.keys() - expected.keys())}),
    ):
        lines += [f"{len(names)} {what}: {_by_prefix(names)}"] if names else []
    misshapen = [name for name in expected.keys() & found.keys() if expected[name] != found[name]]
    if misshapen:
        shown = [f"{name} {found[name]} instead of {expected[name]}" for name in sorted(misshapen)[:3]]
        more = f" and {len(misshapen) - 3} more" if len(misshapen) > 3 else ""
        lines.append(f"{len(misshapen)} of another shape: {', '.join(shown)}{more}")
    return "; ".join(lines) or None


def _by_prefix(names: Iterable[str]) -> str:
    """`a.b.c, a.b.d` as `a.b.* (2)`; a group of one in full; the largest groups first."""
    by_prefix = defaultdict(list)
    for name in names:
        by_prefix[".".join(name.split(".")[:2])].append(name)
    ordered = sorted(by_prefix.items(), key=lambda item: (-len(item[1]), item[0]))
    shown = [
        members[0] if len(members) == 1 else f"{prefix}.* ({len(members)})"
        for prefix, members in ordered[:_GROUPS]
    ]
    rest = sum(len(members) for _, members in ordered[_GROUPS:])
    return ", ".join(shown) + (f" and {rest} elsewhere" if rest else "")
