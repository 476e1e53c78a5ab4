"""A toy in the making: its random choices, the words they leave for its caption, and the parts that become its mesh."""

from collections.abc import Callable, Sequence
from functools import partialmethod
from typing import NamedTuple, TypeVar

import numpy as np
import trimesh

from imagedream.toybox.palette import PALETTE, Colour, jitter
from imagedream.toybox.shapes import Number, Shape, Vector, rotation

Option = TypeVar("Option")


class Frame(NamedTuple):
    """The box around a part, before any turn, in which other parts find their places."""

    centre: np.ndarray
    size: np.ndarray

    def at(self, ahead: Number = 0.0, left: Number = 0.0, up: Number = 0.0) -> np.ndarray:
        """The point at these shares of the size from the centre: (0.5, 0, 0) is the middle of the front side."""
        return self.centre + self.size * (ahead, left, up)


def moved(at: Vector, ahead: Number = 0.0, left: Number = 0.0, up: Number = 0.0) -> np.ndarray:
    """The point that lies these lengths from another."""
    return np.add(at, (ahead, left, up))


def frame(size: Vector | Number, at: Vector) -> Frame:
    """A box of this size (a number for a cube) around a point."""
    return Frame(np.array(at, np.float64), np.broadcast_to(np.array(size, np.float64), 3))


class Part(NamedTuple):
    """One closed, one-coloured piece of a toy."""

    vertices: np.ndarray
    faces: np.ndarray
    colour: Colour


class Builder:
    """Draws what a recipe asks for and collects parts: front towards +x, left +y, up +z, in any unit of length.

    Args:
        generator: source of every choice.
        body: palette name of the body's colour.
        accessory: the optional part this toy carries, or "none".
    """

    def __init__(self, generator: np.random.Generator, body: str, accessory: str) -> None:
        self.generator, self.accessory = generator, accessory
        self.attributes = {"body": body, "accessory": accessory}
        self.phrases: list[str] = []
        self.parts: list[Part] = []
        self.paints = {name: jitter(rgb, generator) for name, rgb in PALETTE.items()}
        self.paint = self.paints[body]
        self._used = {body}

    def between(self, low: Number, high: Number) -> float:
        """A uniform number."""
        return low + (high - low) * float(self.generator.random())

    def chance(self, probability: float = 0.5) -> bool:
        """True with this probability."""
        return float(self.generator.random()) < probability

    def choice(self, options: Sequence[Option]) -> Option:
        """One of the options, all alike."""
        return options[int(self.generator.integers(len(options)))]

    def colour(
        self,
        noun: str,
        among: Sequence[str] = tuple(PALETTE),
        chance: float | None = None,
        otherwise: Colour | None = None,
    ) -> Colour:
        """A colour that no other named part has, kept for the caption as "<colour> <noun>".

        Args:
            noun: the part's name in the caption; a plural ends in "s".
            among: palette names to choose from.
            chance: how probable it is that the part gets such a colour; certain when not given.
            otherwise: what it has if not; the body's colour when not given.

        Returns:
            8-bit sRGB.
        """
        if chance is not None and not self.chance(chance):
            return otherwise or self.paint
        name = self.choice([name for name in among if name not in self._used] or list(among))
        self._used.add(name)
        self.attributes[noun] = name
        self.phrases.append(f"{name} {noun}" if noun.endswith("s") else f"{article(name)} {name} {noun}")
        return self.paints[name]

    def accessory_colour(self) -> Colour | None:
        """The accessory's colour, kept for the caption like any; None without accessory."""
        return None if self.accessory == "none" else self.colour(self.accessory)

    def mention(self, name: str, phrase: str) -> None:
        """Keeps a fact without a colour for the attributes and the caption."""
        self.attributes[name] = phrase
        self.phrases.append(phrase)

    def caption(self, noun: str, most_phrases: int = 3) -> str:
        """One plain sentence: the body's colour, what it is and up to three of its parts."""
        kept = sorted(self.generator.permutation(len(self.phrases))[:most_phrases])
        phrases = [self.phrases[k] for k in kept]
        body = self.attributes["body"]
        start = f"{article(body)} {body} {noun}"
        listed = " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)
        return f"{start} with {listed}" if phrases else start

    def add(
        self,
        shape: Shape,
        colour: Colour,
        size: Vector | Number = 1.0,
        at: Vector = (0, 0, 0),
        turn: Vector = (0, 0, 0),
        mirrored: bool = False,
    ) -> Frame:
        """Adds a shape: scaled by `size`, turned about x, y, z by degrees, moved to `at`; returns the box around it."""
        around = frame(size, at)
        vertices = shape.vertices * around.size
        if any(turn):
            vertices = vertices @ rotation(turn).T
        part = Part(vertices + around.centre, shape.faces, colour)
        self.parts.append(part)
        if mirrored:
            self.parts.append(Part(part.vertices * np.array([1.0, -1.0, 1.0]), part.faces[:, ::-1], colour))
        return around

    pair = partialmethod(add, mirrored=True)
    """Adds a shape and its mirror image on the other side of the xz plane."""

    def mesh(self) -> trimesh.Trimesh:
        """The parts in one mesh with face colours: bounding box centred at 0, longest side 1."""
        offsets = np.cumsum([0] + [len(part.vertices) for part in self.parts[:-1]])
        vertices = np.concatenate([part.vertices for part in self.parts])
        faces = np.concatenate([p.faces + offset for p, offset in zip(self.parts, offsets, strict=True)])
        colours = np.array([(*part.colour, 255) for part in self.parts], np.uint8)
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        vertices = (vertices - (low + high) / 2) / (high - low).max()
        face_colours = np.repeat(colours, [len(part.faces) for part in self.parts], axis=0)
        return trimesh.Trimesh(vertices, faces, face_colors=face_colours, process=False, validate=False)


def article(word: str) -> str:
    """Returns "a" or "an", as the word wants."""
    return "an" if word[0] in "aeiou" else "a"


class Recipe(NamedTuple):
    """A kind of toy: how it is built, what it may carry, and what captions call it."""

    kind: str
    build: Callable[[Builder], None]
    accessories: tuple[str, ...]
    noun: str


def recipe(*accessories: str, noun: str | None = None) -> Callable[[Callable[[Builder], None]], Recipe]:
    """Makes a recipe of the function that builds a kind and is named after it.

    Args:
        accessories: parts that a toy of this kind may carry, beside "none".
        noun: what captions call it, where that is more than the kind's own name.

    Returns:
        The decorator.
    """
    return lambda build: Recipe(build.__name__, build, ("none", *accessories), noun or build.__name__)
