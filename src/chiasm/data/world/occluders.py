"""What stands before a thing: bars, a hand, or another thing, until the right part is hidden.

Each way to cover draws one attempt that aims at a share; the share hidden is then measured on the
masks, and drawn again until it lies in the range asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from chiasm.core.config import lookup
from chiasm.data.world.render import masks
from chiasm.data.world.sampling import compositions
from chiasm.data.world.scene import COLOURS as THING_COLOURS
from chiasm.data.world.scene import RGB, SHAPES, SIZES, TEXTURES, Occluder, Scene, Thing

Cover = Literal["bars", "hand", "thing"]

TRIES = 40
"""Attempts at covering a thing before the scene is drawn again."""

SKIN: tuple[RGB, ...] = ((150, 110, 85), (125, 85, 62), (92, 62, 45), (158, 126, 106))
"""Colours of hands."""


def cover(
    scene: Scene, rng: np.random.Generator, kind: Cover, least: float, most: float
) -> Scene | None:
    """Put an occluder before the first thing of a scene.

    Args:
        scene: A scene of one thing and no occluder.
        rng: The random numbers.
        kind: A name in `COVERS`.
        least: Smallest share of the thing's whole mask to be hidden, in [0, 1).
        most: Largest share; the thing always shows some pixel.

    Returns:
        The scene with the occluder; None where no attempt hid the right share.

    Raises:
        UnknownNameError: The kind is not known.
    """
    attempt = lookup(COVERS, kind, "occluder")
    for _ in range(TRIES):
        covered = attempt(scene, rng, float(rng.uniform(least, most)))
        visible, whole = masks(covered)
        share = 1 - visible[0].sum() / whole[0].sum()
        if least <= share <= most and share < 1:
            return covered
    return None


@dataclass(frozen=True)
class _Frame:
    """Directions across and along an occluder, around the middle of the thing it covers."""

    thing: Thing
    angle: float

    def at(self, across: float, along: float) -> tuple[float, float]:
        """Return the canvas place of a point given in pixels from the thing's centre."""
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        x = self.thing.x + across * cosine - along * sine
        return x, self.thing.y + across * sine + along * cosine


def _bars(scene: Scene, rng: np.random.Generator, share: float) -> Scene:
    """One to three parallel bars of one colour; each covers its part of an equal spacing."""
    thing = scene.things[0]
    frame = _Frame(thing, float(rng.uniform(0, math.pi)))
    spacing = thing.size * float(rng.uniform(0.45, 1.1))
    width = max(1.0, spacing * share)
    first = float(rng.uniform(-0.5, 0.5)) * spacing
    colour = _any_colour(rng)
    bars = []
    for step in range(-2, 3):
        across = first + step * spacing
        if abs(across) - width / 2 < thing.size / 2:
            x, y = frame.at(across, 0.0)
            length = 3.0 * max(scene.height, scene.width)
            bars.append(Occluder(x, y, width, length, frame.angle, colour))
    return replace(scene, occluders=tuple(bars))


def _hand(scene: Scene, rng: np.random.Generator, share: float) -> Scene:
    """Three to five rounded fingers, side by side, that reach over the thing from one side."""
    thing = scene.things[0]
    frame = _Frame(thing, float(rng.uniform(0, 2 * math.pi)))
    count = int(rng.integers(3, 6))
    spacing = thing.size * float(rng.uniform(0.85, 1.15)) / count
    width = spacing * float(rng.uniform(0.82, 1.0))
    # How far they reach in, from the border of the disc: its chords make it a little more.
    reach = thing.size * (0.1 + 0.95 * share * spacing / width)
    colour = _skin(rng)
    fan = float(rng.uniform(0, 0.12))
    fingers = []
    for place in range(count):
        side = place - (count - 1) / 2
        tip = reach - thing.size / 2 - abs(side) * spacing * 0.25 * float(rng.uniform(0.2, 1))
        length = 1.6 * max(scene.height, scene.width)
        turn = side * fan
        # A finger turns around its tip; its middle lies half of its length behind that.
        x, y = _Frame(thing, frame.angle).at(side * spacing, tip)
        x += length / 2 * math.sin(frame.angle + turn)
        y -= length / 2 * math.cos(frame.angle + turn)
        shade = float(rng.uniform(0.92, 1.08))
        fingers.append(
            Occluder(
                x, y, width, length, frame.angle + turn, _shaded(colour, shade), corner=width / 2
            )
        )
    return replace(scene, occluders=tuple(fingers))


def _other_thing(scene: Scene, rng: np.random.Generator, share: float) -> Scene:
    """Another thing of another colour in front, the nearer the more it is to hide."""
    thing = scene.things[0]
    looks = [look for look in compositions(*_EVERYTHING)[0] if look[1] != thing.colour]
    shape, colour, texture = looks[int(rng.integers(len(looks)))]
    low, high = min(SIZES.values())[0], max(SIZES.values())[1]
    side = min(scene.height, scene.width)
    # Small things hide little, whatever their place.
    size = side * float(rng.uniform(low + (high - low) * share, high * (1 + 0.25 * share)))
    gap = (thing.size + size) / 2 * (1 - share) * float(rng.uniform(0.35, 1.1))
    angle = float(rng.uniform(0, 2 * math.pi))
    front = Thing(
        shape,
        colour,
        texture,
        thing.texture_period,
        thing.x + gap * math.cos(angle),
        thing.y + gap * math.sin(angle),
        size,
        float(rng.uniform(-0.15, 0.15)),
    )
    return replace(scene, things=(thing, front))


_EVERYTHING = (tuple(SHAPES), tuple(THING_COLOURS), tuple(TEXTURES))


def _any_colour(rng: np.random.Generator) -> RGB:
    red, green, blue = rng.uniform(35, 160, 3).tolist()
    return red, green, blue


def _skin(rng: np.random.Generator) -> RGB:
    return _shaded(SKIN[int(rng.integers(len(SKIN)))], float(rng.uniform(0.9, 1.1)))


def _shaded(colour: RGB, factor: float) -> RGB:
    red, green, blue = colour
    return red * factor, green * factor, blue * factor


COVERS: dict[str, Callable[[Scene, np.random.Generator, float], Scene]] = {
    "bars": _bars,
    "hand": _hand,
    "thing": _other_thing,
}
"""Name -> one attempt at covering the first thing of a scene by a share."""
