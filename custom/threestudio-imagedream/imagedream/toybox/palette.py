"""The toybox's colours: names that captions use, and the RGB values behind them."""

import numpy as np

Colour = tuple[int, int, int]
"""8-bit sRGB."""

PALETTE: dict[str, Colour] = {
    "red": (212, 38, 38),
    "orange": (245, 130, 28),
    "yellow": (250, 208, 48),
    "green": (52, 158, 66),
    "teal": (38, 178, 178),
    "blue": (42, 92, 208),
    "purple": (128, 62, 176),
    "pink": (242, 128, 182),
    "brown": (128, 82, 46),
    "white": (240, 240, 234),
    "gray": (134, 138, 144),
}
"""Colours a caption may name."""

# colours of parts that no caption mentions
DARK = (34, 34, 40)  # eyes, tyres, mouths
WHITE = (246, 246, 246)  # whites of eyes, headlights, plates
METAL = (176, 182, 190)  # bumpers, hinges, antennas
GLASS = (150, 205, 235)  # windows and screens
GLOW = (255, 240, 170)  # bulbs
TAIL_LIGHT = (200, 20, 30)


def jitter(colour: Colour, generator: np.random.Generator) -> Colour:
    """A colour of the same name: brightness within 12 %, every channel within 8 of 255 on top.

    Args:
        colour: 8-bit sRGB.
        generator: source of randomness.

    Returns:
        8-bit sRGB.
    """
    brightness, channels = generator.uniform(0.88, 1.06), generator.uniform(-8, 8, 3)
    red, green, blue = (
        int(min(max(channel * brightness + offset, 0), 255))
        for channel, offset in zip(colour, channels, strict=True)
    )
    return red, green, blue
