"""A scene as plain values: everything the picture and its truth are computed from.

Coordinates are continuous canvas pixels, X to the right and Y down: pixel (row r, column c) covers
[c, c+1] x [r, r+1]. Intensities are in [0, 255].

A scene is one instant. Things are values, so what moves produces, for a time, another scene.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from chiasm.data.world.outlines import SHAPES
from chiasm.data.world.textures import FINE_PERIOD, TEXTURES

__all__ = [
    "COLOURS",
    "SHAPES",
    "SIZES",
    "TEXTURES",
    "Background",
    "Blob",
    "Lighting",
    "Occluder",
    "Scene",
    "Thing",
    "fingerprint",
    "scene_from_plain",
]

RGB = tuple[float, float, float]

COLOURS: dict[str, RGB] = {
    "red": (155, 35, 35),
    "green": (40, 135, 45),
    "blue": (35, 60, 155),
    "yellow": (155, 145, 35),
    "purple": (105, 35, 145),
    "orange": (155, 85, 35),
    "teal": (35, 140, 140),
    "pink": (155, 100, 130),
}
"""Colour name -> RGB. No channel is so bright or so dark that texture, light and noise together
reach 0 or 255: clipping would give a fine texture a mean, and halving would no longer remove it.
The order is part of the held-out rule and of dense labels."""

SIZES: dict[str, tuple[float, float]] = {"small": (0.24, 0.29), "large": (0.40, 0.48)}
"""Size name -> range of the diameter, as a part of the canvas's shorter side."""


@dataclass(frozen=True)
class Thing:
    """One thing.

    Attributes:
        shape: Name in `SHAPES`.
        colour: Name in `COLOURS`.
        texture: Name in `TEXTURES`.
        texture_period: Even number of pixels; `FINE_PERIOD` is what halving a picture removes.
        x: Centre, canvas pixels.
        y: Centre, canvas pixels.
        size: Diameter of the disc that holds the outline, in pixels.
        angle: Clockwise turn in radians; the texture stays on the pixel grid.
    """

    shape: str
    colour: str
    texture: str
    texture_period: int
    x: float
    y: float
    size: float
    angle: float = 0.0

    @property
    def fine(self) -> bool:
        """Whether the texture is gone when the picture is halved."""
        return self.texture != "plain" and self.texture_period == FINE_PERIOD


@dataclass(frozen=True)
class Blob:
    """A soft spot of a background: centre and radius in pixels, and the RGB it adds."""

    x: float
    y: float
    radius: float
    change: RGB


@dataclass(frozen=True)
class Background:
    """What lies behind all things.

    Attributes:
        kind: `plain` (first colour), `gradient` (first to second colour) or `blobs` (spots on the
            first colour).
        colours: One RGB colour, two for a gradient.
        direction: Where a gradient goes, radians clockwise from the right.
        blobs: The spots of a `blobs` background.
    """

    kind: Literal["plain", "gradient", "blobs"]
    colours: tuple[RGB, ...]
    direction: float = 0.0
    blobs: tuple[Blob, ...] = ()


@dataclass(frozen=True)
class Lighting:
    """Light over the whole picture, things and background alike.

    Attributes:
        gain: Factor on all intensities.
        slope: Relative change from the middle of the canvas to its edge along `direction`.
        direction: Where it gets brighter, radians clockwise from the right.
    """

    gain: float = 1.0
    slope: float = 0.0
    direction: float = 0.0


@dataclass(frozen=True)
class Occluder:
    """A bar of one colour in front of every thing.

    Attributes:
        x: Centre, canvas pixels.
        y: Centre, canvas pixels.
        width: In pixels, before it is turned.
        height: In pixels, before it is turned.
        angle: Clockwise turn in radians.
        colour: RGB.
        corner: Radius of its corners in pixels; half of the width makes a finger of it.
    """

    x: float
    y: float
    width: float
    height: float
    angle: float = 0.0
    colour: RGB = (110.0, 110.0, 110.0)
    corner: float = 0.0


@dataclass(frozen=True)
class Scene:
    """One picture before it is painted.

    Attributes:
        height: Canvas height in pixels.
        width: Canvas width in pixels.
        background: What lies behind.
        things: The things, from back to front.
        occluders: Bars in front of all things, from back to front.
        lighting: The light.
        noise: Standard deviation of the sensor noise, in intensity.
        noise_seed: Seed of that noise; it changes no truth.
    """

    height: int
    width: int
    background: Background
    things: tuple[Thing, ...]
    occluders: tuple[Occluder, ...] = ()
    lighting: Lighting = field(default_factory=Lighting)
    noise: float = 0.0
    noise_seed: int = 0

    def size_word(self, index: int) -> str:
        """Return the name of the size of thing `index`: the one with the nearest range."""
        part = self.things[index].size / min(self.height, self.width)
        return min(SIZES, key=lambda name: abs(part - sum(SIZES[name]) / 2))

    def attributes(self, index: int) -> dict[str, str]:
        """Return the words for thing `index` by attribute: shape, colour, texture, size."""
        thing = self.things[index]
        return {
            "shape": thing.shape,
            "colour": thing.colour,
            "texture": thing.texture,
            "size": self.size_word(index),
        }

    def to_plain(self) -> dict[str, Any]:
        """Return the scene as dictionaries, lists and numbers, ready for JSON."""
        return asdict(self)


def scene_from_plain(plain: Mapping[str, Any]) -> Scene:
    """Return the scene that `Scene.to_plain` wrote down."""
    background = dict(plain["background"])
    background["colours"] = tuple(tuple(colour) for colour in background["colours"])
    background["blobs"] = tuple(
        Blob(**{**blob, "change": tuple(blob["change"])}) for blob in background["blobs"]
    )
    return Scene(
        **{
            **plain,
            "background": Background(**background),
            "things": tuple(Thing(**thing) for thing in plain["things"]),
            "occluders": tuple(Occluder(**bar) for bar in plain["occluders"]),
            "lighting": Lighting(**plain["lighting"]),
        }
    )


def fingerprint(scene: Scene) -> str:
    """Return a digest of what a scene shows; scenes that differ by noise alone share it."""
    plain = scene.to_plain()
    del plain["noise"], plain["noise_seed"]
    return hashlib.blake2b(json.dumps(plain, sort_keys=True).encode(), digest_size=16).hexdigest()
