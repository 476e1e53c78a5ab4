"""What a network has been trained on, so that nobody tests it on that by mistake (`imagedream.workshop.evaluation.held_out_toys`).

The record travels in the network's own config (`MultiViewUNet`, `trained_on`): an entry for each training, the oldest
first. Networks from elsewhere have none, and nothing is known of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Seen = Sequence[Mapping[str, Any]]
"""Entries of trainings; those on toys have `kinds`, `split`, `first_seed` and `objects`."""


def seen_toys(kinds: Iterable[str], first_seed: int, objects: int, split: str = "train") -> dict[str, Any]:
    """The entry of a training on toys: of these kinds, with seeds `first_seed` to `first_seed + objects − 1`."""
    return {
        "data": "toybox",
        "kinds": list(dict.fromkeys(kinds)),
        "split": split,
        "first_seed": first_seed,
        "objects": objects,
    }
