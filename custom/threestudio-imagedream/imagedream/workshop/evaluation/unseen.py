"""That a network is tested on what it was not trained on, by its own record (`imagedream.training_record`)."""

from collections.abc import Sequence
from typing import Any

from imagedream import checkpoints
from imagedream.toybox import KINDS
from imagedream.training_record import Seen


def unseen_toys(
    weights: str, split: str, first_seed: int, count: int, kinds: Sequence[str] = ()
) -> dict[str, Any]:
    """How `held_out_cases` is asked for toys that a model was not trained on.

    Args:
        weights: the model; only one in a folder here has a record.
        split: "heldout": toys that training never made; "combinations": those of them whose kind, body colour and
            accessory it never saw together; "unseen-kinds": kinds that the model was never trained on; "train": toys as
            training makes them, of seeds that it did not get to.
        first_seed: number of the first toy.
        count: of toys.
        kinds: the wanted ones; none for what `held_out_cases` takes by itself, or for all unseen ones.

    Raises:
        ValueError: toys of these seeds or kinds were trained on, or what was is not known.
    """
    here = checkpoints.local_path(weights) is not None
    trained_on = checkpoints.part_config(weights, "unet").get("trained_on", ()) if here else ()
    stream = "train" if split == "train" else "heldout"
    check_unseen(trained_on, stream, first_seed, count)
    return {
        "split": stream,
        "combinations": "heldout" if split == "combinations" else "any",
        "kinds": unseen_kinds(trained_on, kinds) if split == "unseen-kinds" else tuple(kinds) or None,
    }


def unseen_kinds(trained_on: Seen, wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """Kinds of toys that are new to a network: the wanted ones, or all.

    Raises:
        ValueError: a wanted kind was trained on, no kind is left, or nothing is known of what was trained on.
    """
    toys = [entry for entry in trained_on if entry["data"] == "toybox"]
    if not toys:
        raise ValueError(
            "these weights do not say which toys they were trained on (trained_on in unet/config.json), so which kinds are new "
            "to them is not known; name kinds with --kinds and leave --split at heldout"
        )
    seen = {kind for entry in toys for kind in entry["kinds"]}
    new = tuple(kind for kind in KINDS if kind not in seen)
    known = [kind for kind in wanted if kind in seen]
    if known or not new:
        raise ValueError(
            f"{', '.join(known) or 'every kind of toy'} was trained on; new to these weights: {', '.join(new) or 'none'}"
        )
    return tuple(wanted) or new


def check_unseen(trained_on: Seen, split: str, first_seed: int, count: int) -> None:
    """Raise ValueError if toys of a split with these seeds, of whichever kind, were trained on."""
    ranges = [
        (entry["first_seed"], entry["first_seed"] + entry["objects"])
        for entry in trained_on
        if entry["data"] == "toybox" and entry["split"] == split
    ]
    for first, end in ranges:
        if first_seed < end and first < first_seed + count:
            raise ValueError(
                f"seeds {first_seed} to {first_seed + count - 1} of the {split} split are asked for, but these weights were "
                f"trained on {first} to {end - 1}; choose --seed {max(end for _, end in ranges)} or above, or --split heldout"
            )
