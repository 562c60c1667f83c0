"""Reconstructions: a thing alone on black, as a renderer shows it, with errors of known size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from chiasm.core.config import Config
from chiasm.core.errors import ConfigError
from chiasm.data.world.sampling import compositions, is_held_out
from chiasm.data.world.scene import COLOURS, SHAPES, SIZES, TEXTURES, Background, Scene, Thing

BLACK = Background("plain", ((0.0, 0.0, 0.0),))

STEADIEST = 0.15
"""Most turn in radians of the shapes in `STEADY`, on top of the thing's own tilt."""

STEADY = ("square", "diamond")
"""Shapes that would turn into each other."""


class ReconstructionConfig(Config):
    """How wrong reconstructions are. Shares are drawn anew for each; the rest is right in look.

    All but the exact ones are moved, scaled and turned, each drawn evenly over its range, on top of
    how the reconstruction frames the thing.
    """

    fill: float | None = Field(default=0.65, gt=0, le=1)
    """How a renderer frames the thing: in the middle, its diameter this part of the picture's
    shorter side, textures enlarged with it. None: where and as large as it is in the scene."""

    exact: float = Field(default=0.15, ge=0, le=1)
    """Share without any error."""
    wrong_texture: float = Field(default=0.15, ge=0, le=1)
    """Share that shows another texture."""
    wrong_object: float = Field(default=0.25, ge=0, le=1)
    """Share that shows another thing: another shape and another colour, its size and texture its
    own. A model must learn to distrust."""
    shift: float = Field(default=0.25, ge=0, le=1)
    """Largest move along each side, as a part of it; the thing stays whole in the picture."""
    scale: tuple[float, float] = (0.7, 1.3)
    """Factor on the size, after framing: least and most."""
    rotation: float = Field(default=30.0, ge=0, le=45)
    """Largest turn to either side in degrees; less where it would change what the shape is."""

    @model_validator(mode="after")
    def _check(self) -> ReconstructionConfig:
        faults = []
        if not 0 < self.scale[0] <= self.scale[1]:
            faults.append(f"scale: {self.scale} is no range; give (least > 0, most)")
        elif self.exact < 1 and self.fill is not None and self.fill * self.scale[1] > 1 + 1e-9:
            faults.append(
                f"fill, scale: {self.fill} x {self.scale[1]} is larger than the picture; their "
                "product is at most 1"
            )
        # Sums of decimal shares miss 1 by less than this.
        if self.exact + self.wrong_texture + self.wrong_object > 1 + 1e-9:
            shares = (self.exact, self.wrong_texture, self.wrong_object)
            faults.append(f"exact, wrong_texture, wrong_object: {shares} add up to more than 1")
        if faults:
            raise ValueError("; ".join(faults))
        return self


@dataclass(frozen=True)
class Errors:
    """How a reconstruction differs from the truth, once it is framed.

    Attributes:
        shift: Move (X, Y) as parts of the picture's sides.
        scale: Factor on the size; without framing, before another object takes its own.
        rotation: Turn in degrees, clockwise.
        wrong_texture: Whether the texture is another.
        wrong_object: Whether the thing is another.
    """

    shift: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    rotation: float = 0.0
    wrong_texture: bool = False
    wrong_object: bool = False

    @property
    def word(self) -> str:
        """The worst of them in a word: `object`, `texture`, `pose` or `exact`."""
        if self.wrong_object or self.wrong_texture:
            return "object" if self.wrong_object else "texture"
        return "exact" if self == Errors() else "pose"

    def to_plain(self) -> dict[str, Any]:
        """Return the errors as plain values, with their `word`."""
        return {**asdict(self), "shift": list(self.shift), "word": self.word}


def reconstruct(
    scene: Scene, rng: np.random.Generator, config: ReconstructionConfig
) -> tuple[Scene, Errors]:
    """Draw a reconstruction of the first thing of a scene.

    Args:
        scene: The scene, in whose frame the reconstruction is made.
        rng: The random numbers.
        config: How wrong it may be.

    Returns:
        A scene of one thing on black without noise, and how it differs.

    Raises:
        ConfigError: A thing grew larger than the picture.
    """
    truth = scene.things[0]
    place = _framed(scene, truth, config.fill)
    draw = float(rng.random())
    if draw < config.exact:
        return _alone(scene, place), Errors()
    wrong_texture = draw < config.exact + config.wrong_texture
    wrong_object = not wrong_texture and draw >= 1 - config.wrong_object
    thing = truth
    if wrong_object:
        thing = _another(scene, truth, rng)
    if wrong_texture:
        thing = replace(truth, texture=_other_texture(truth, rng))
    thing = _framed(scene, thing, config.fill)
    scale = float(rng.uniform(*config.scale))
    size = thing.size * scale
    x = _moved(rng, place.x, scene.width, config.shift, size)
    y = _moved(rng, place.y, scene.height, config.shift, size)
    most = math.radians(config.rotation)
    most = min(most, STEADIEST) if thing.shape in STEADY else most
    turn = float(rng.uniform(-most, most))
    moved = replace(thing, x=x, y=y, size=size, angle=thing.angle + turn)
    return _alone(scene, moved), Errors(
        ((x - place.x) / scene.width, (y - place.y) / scene.height),
        scale,
        math.degrees(turn),
        wrong_texture,
        wrong_object,
    )


def _alone(scene: Scene, thing: Thing) -> Scene:
    return Scene(scene.height, scene.width, BLACK, (thing,))


def _framed(scene: Scene, thing: Thing, fill: float | None) -> Thing:
    """Place a thing as a renderer frames it. Periods of textures stay even numbers of pixels."""
    if fill is None:
        return thing
    size = fill * min(scene.height, scene.width)
    period = 2 * max(1, round(thing.texture_period * size / thing.size / 2))
    return replace(thing, x=scene.width / 2, y=scene.height / 2, size=size, texture_period=period)


def _moved(rng: np.random.Generator, place: float, length: int, shift: float, size: float) -> float:
    """Draw a new place along one side, near the old one and with the whole thing inside."""
    low = max(size / 2, place - shift * length)
    high = min(length - size / 2, place + shift * length)
    if low > high:
        raise ConfigError(
            f"a reconstruction of {size:.0f} pixels has no place within {shift:.0%} of {place:.0f} "
            f"on a side of {length}; allow less scale, or more shift"
        )
    return float(rng.uniform(low, high))


def _another(scene: Scene, truth: Thing, rng: np.random.Generator) -> Thing:
    """Draw another thing: none of the split `composition` alone, and of any size."""
    looks = [
        look
        for look in compositions(tuple(SHAPES), tuple(COLOURS), tuple(TEXTURES))[0]
        if look[0] != truth.shape and look[1] != truth.colour
    ]
    shape, colour, texture = looks[int(rng.integers(len(looks)))]
    low, high = list(SIZES.values())[int(rng.integers(len(SIZES)))]
    size = min(scene.height, scene.width) * float(rng.uniform(low, high))
    return replace(truth, shape=shape, colour=colour, texture=texture, size=size)


def _other_texture(truth: Thing, rng: np.random.Generator) -> str:
    others: Sequence[str] = [
        texture
        for texture in TEXTURES
        if texture != truth.texture and not is_held_out(truth.shape, truth.colour, texture)
    ]
    return others[int(rng.integers(len(others)))]
