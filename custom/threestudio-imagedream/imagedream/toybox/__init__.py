"""Procedural toys with a canonical front (+x), a caption and a seed: what the small diffusion model learns from.

>>> from imagedream.toybox import make_toy
>>> make_toy(3, kind="mug").kind
'mug'
"""

from imagedream.toybox.toys import FIRST_KINDS, KINDS, Toy, make_toy

__all__ = ["FIRST_KINDS", "KINDS", "Toy", "make_toy"]
