"""The random choices behind a toy, and the words that they leave for its caption."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from imagedream.toybox.palette import PALETTE, Colour, jitter

Option = TypeVar("Option")


class Draw:
    """Random choices of one toy, remembered as attributes and caption phrases.

    Args:
        generator: source of every choice.
        body: palette name of the body's colour.
        accessory: the optional part this toy carries, or "none".
    """

    def __init__(self, generator: np.random.Generator, body: str, accessory: str) -> None:
        self.generator, self.body, self.accessory = generator, body, accessory
        self.attributes = {"body": body, "accessory": accessory}
        self.phrases: list[str] = []
        self._used = {body}
        self._paints = {name: jitter(rgb, generator) for name, rgb in PALETTE.items()}

    @property
    def paint(self) -> Colour:
        """The body's colour."""
        return self._paints[self.body]

    def between(self, low: int | float, high: int | float) -> float:
        """A uniform number."""
        return low + (high - low) * float(self.generator.random())

    def chance(self, probability: float = 0.5) -> bool:
        """True with this probability."""
        return float(self.generator.random()) < probability

    def choice(self, options: Sequence[Option]) -> Option:
        """One of the options, all alike."""
        return options[int(self.generator.integers(len(options)))]

    def part(self, noun: str, among: Sequence[str] = tuple(PALETTE)) -> Colour:
        """A colour that no other named part has, kept for the caption as "<colour> <noun>".

        Args:
            noun: the part's name in the caption; a plural ends in "s".
            among: palette names to choose from.

        Returns:
            8-bit sRGB.
        """
        name = self.choice([name for name in among if name not in self._used] or list(among))
        self._used.add(name)
        self.attributes[noun] = name
        self.phrases.append(f"{name} {noun}" if noun.endswith("s") else f"{article(name)} {name} {noun}")
        return self._paints[name]

    def mention(self, name: str, phrase: str) -> None:
        """Keeps a fact without a colour for the attributes and the caption."""
        self.attributes[name] = phrase
        self.phrases.append(phrase)

    def caption(self, noun: str, most_phrases: int = 3) -> str:
        """One plain sentence: the body's colour, what it is and up to three of its parts."""
        kept = sorted(self.generator.permutation(len(self.phrases))[:most_phrases])
        phrases = [self.phrases[k] for k in kept]
        start = f"{article(self.body)} {self.body} {noun}"
        if not phrases:
            return start
        return (
            f"{start} with {' and '.join([', '.join(phrases[:-1]), phrases[-1]] if phrases[1:] else phrases)}"
        )


def article(word: str) -> str:
    """Returns "a" or "an", as the word wants."""
    return "an" if word[0] in "aeiou" else "a"
