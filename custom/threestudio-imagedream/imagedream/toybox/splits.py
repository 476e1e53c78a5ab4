"""Which toys are for training and which are kept back."""

import zlib

SPLITS = ("train", "heldout")
"""Disjoint random streams; a split's place here is the first word of its seeds."""

HELD_OUT_SHARE = 10
"""One in this many combinations of kind, body colour and accessory never appears in the train split."""


def is_held_out(kind: str, body: str, accessory: str) -> bool:
    """Whether a combination is kept from training: a fixed hash of its three words, the same on every machine."""
    return zlib.crc32(f"{kind}|{body}|{accessory}".encode()) % HELD_OUT_SHARE == 0
