"""Drawing scenes: streams of random numbers that never meet, splits, held-out compositions."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import product
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from chiasm.core.config import Config
from chiasm.core.errors import ConfigError, UnknownNameError
from chiasm.data.world.render import masks
from chiasm.data.world.scene import (
    COLOURS,
    SHAPES,
    SIZES,
    TEXTURES,
    Background,
    Blob,
    Lighting,
    Occluder,
    Scene,
    Thing,
)

SPLITS = ("train", "validation", "test", "composition")
"""The splits; the order is part of the random streams."""

HELD_OUT_ONE_IN = 11
ATTEMPTS = 200

Triple = tuple[str, str, str]
"""(shape, colour, texture) by name."""


class SceneConfig(Config):
    """What scenes of one kind are made of. Ranges include both ends."""

    height: int = Field(default=112, ge=32)
    width: int = Field(default=112, ge=32)
    things: tuple[int, int] = (1, 3)
    """How many things: least and most."""
    shapes: tuple[str, ...] = tuple(SHAPES)
    colours: tuple[str, ...] = tuple(COLOURS)
    textures: tuple[str, ...] = tuple(TEXTURES)
    sizes: tuple[str, ...] = tuple(SIZES)
    periods: tuple[int, ...] = (8, 10)
    """Periods of the textures in pixels, one drawn for each thing; 2 is the fine one."""
    tilt: float = Field(default=0.15, ge=0, le=0.3)
    """Largest turn to either side in radians; more would make a square a diamond."""
    overlap: float = Field(default=0.2, ge=0, lt=1)
    """How far two discs may reach into each other, as a part of the sum of their radii."""
    least_visible: float = Field(default=0.55, ge=0, le=1)
    """Smallest visible part of any thing."""
    distinct: bool = True
    """Whether no two things of a scene share colour and shape, so that each can be referred to."""
    occluders: tuple[int, int] = (0, 0)
    """How many grey bars stand in front: least and most."""
    backgrounds: tuple[Literal["plain", "gradient", "blobs"], ...] = ("plain", "gradient", "blobs")
    noise: tuple[float, float] = (1.0, 4.0)
    """Standard deviation of the noise in intensity: least and most."""
    kinds: tuple[str, ...] = ()
    """Question kinds asked about these scenes; empty for all that are on by default."""

    @model_validator(mode="after")
    def _check(self) -> SceneConfig:
        faults = []
        chosen = (
            ("shapes", self.shapes, tuple(SHAPES)),
            ("colours", self.colours, tuple(COLOURS)),
            ("textures", self.textures, tuple(TEXTURES)),
            ("sizes", self.sizes, tuple(SIZES)),
        )
        for name, given, known in chosen:
            if not given or not set(given) <= set(known):
                faults.append(f"{name}: {list(given)}; give some of: {', '.join(known)}")
        if not 1 <= self.things[0] <= self.things[1]:
            faults.append(f"things: {self.things} is no range; give (least >= 1, most)")
        if not 0 <= self.occluders[0] <= self.occluders[1]:
            faults.append(f"occluders: {self.occluders} is no range; give (least >= 0, most)")
        if not 0 <= self.noise[0] <= self.noise[1]:
            faults.append(f"noise: {self.noise} is no range; give (least >= 0, most)")
        if not self.periods or any(p < 2 or p % 2 for p in self.periods):
            faults.append(f"periods: {self.periods}; give even numbers of pixels, at least 2")
        if self.distinct and self.things[1] > len(self.shapes) * len(self.colours):
            faults.append(f"things: {self.things[1]} cannot all differ in colour and shape")
        if faults:
            raise ValueError("; ".join(faults))
        return self


def stream(seed: int, split: str, index: int, *path: int) -> np.random.Generator:
    """Return the random numbers of item `index` of a split.

    A pure function of its arguments, in constant time; streams with different arguments are
    independent, so splits never share a scene.

    Args:
        seed: Seed of the whole data set.
        split: One of `SPLITS`.
        index: The item.
        path: Further numbers, one stream each (what it is for, which attempt).

    Raises:
        UnknownNameError: The split is not known.
    """
    if split not in SPLITS:
        raise UnknownNameError("split", split, SPLITS)
    key = (SPLITS.index(split), index, *path)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def is_held_out(shape: str, colour: str, texture: str) -> bool:
    """Whether a composition is kept for the `composition` split.

    About one in eleven is. A sparse rule matters: if every colour and shape had one texture
    missing, a model could exclude answers without looking.
    """
    s, c, t = list(SHAPES).index(shape), list(COLOURS).index(colour), list(TEXTURES).index(texture)
    return (c + 2 * s + 3 * t) % HELD_OUT_ONE_IN == 0


@lru_cache(maxsize=64)
def compositions(
    shapes: tuple[str, ...], colours: tuple[str, ...], textures: tuple[str, ...]
) -> tuple[tuple[Triple, ...], tuple[Triple, ...]]:
    """Return the triples for all splits but `composition`, and the held-out ones."""
    triples = tuple(product(shapes, colours, textures))
    seen = tuple(triple for triple in triples if not is_held_out(*triple))
    return seen, tuple(triple for triple in triples if is_held_out(*triple))


def sample_scene(rng: np.random.Generator, config: SceneConfig, split: str) -> Scene:
    """Draw one scene.

    In the split `composition` exactly one thing has a held-out composition of shape, colour and
    texture; in the other splits none has.

    Args:
        rng: The random numbers, see `stream`.
        config: What the scene is made of.
        split: One of `SPLITS`.

    Raises:
        UnknownNameError: The split is not known.
        ConfigError: The scene asked for is impossible or too crowded.
    """
    if split not in SPLITS:
        raise UnknownNameError("split", split, SPLITS)
    count = int(rng.integers(config.things[0], config.things[1] + 1))
    looks = _sample_looks(rng, config, split, count)
    for _ in range(ATTEMPTS):
        things = _place(rng, config, looks)
        if things is None:
            continue
        scene = Scene(
            height=config.height,
            width=config.width,
            background=_sample_background(rng, config),
            things=things,
            occluders=_sample_occluders(rng, config),
            lighting=Lighting(
                gain=float(rng.uniform(0.85, 1.0)),
                slope=float(rng.uniform(0, 0.08)),
                direction=float(rng.uniform(0, 2 * math.pi)),
            ),
            noise=float(rng.uniform(*config.noise)),
            noise_seed=int(rng.integers(2**31)),
        )
        if _visible_enough(scene, config.least_visible):
            return scene
    raise ConfigError(
        f"no room for {count} things on a canvas of {config.height} x {config.width} after "
        f"{ATTEMPTS} attempts; ask for fewer things, smaller sizes, or allow more overlap"
    )


def _sample_looks(
    rng: np.random.Generator, config: SceneConfig, split: str, count: int
) -> list[Triple]:
    seen, held_out = compositions(config.shapes, config.colours, config.textures)
    needed = {"shapes": config.shapes, "colours": config.colours, "textures": config.textures}
    if not seen or (split == "composition" and not held_out):
        raise ConfigError(
            f"split {split!r} has no composition of {needed}; allow more shapes, colours, textures"
        )
    looks: list[Triple] = []
    if split == "composition":
        looks.append(held_out[int(rng.integers(len(held_out)))])
    for _ in range(ATTEMPTS):
        if len(looks) == count:
            break
        look = seen[int(rng.integers(len(seen)))]
        if not config.distinct or all(look[:2] != other[:2] for other in looks):
            looks.append(look)
    if len(looks) < count:
        raise ConfigError(f"{count} things cannot all differ in colour and shape within {needed}")
    order = rng.permutation(count)
    return [looks[int(place)] for place in order]


def _place(
    rng: np.random.Generator, config: SceneConfig, looks: list[Triple]
) -> tuple[Thing, ...] | None:
    """Give each look a place and a size, or return None where one finds no room."""
    things: list[Thing] = []
    side = min(config.height, config.width)
    for shape, colour, texture in looks:
        low, high = SIZES[config.sizes[int(rng.integers(len(config.sizes)))]]
        size = side * float(rng.uniform(low, high))
        for _ in range(20):
            # A ninth of the canvas first, so that all nine positions are equally common.
            x = _within_third(rng, config.width, size / 2 + 1)
            y = _within_third(rng, config.height, size / 2 + 1)
            if all(
                math.hypot(x - other.x, y - other.y)
                >= (1 - config.overlap) * (size + other.size) / 2
                for other in things
            ):
                break
        else:
            return None
        period = config.periods[int(rng.integers(len(config.periods)))]
        angle = float(rng.uniform(-config.tilt, config.tilt))
        things.append(Thing(shape, colour, texture, period, x, y, size, angle))
    return tuple(things)


def _within_third(rng: np.random.Generator, length: int, margin: float) -> float:
    third = int(rng.integers(3))
    low = max(margin, length * third / 3)
    high = min(length - margin, length * (third + 1) / 3)
    return float(rng.uniform(low, high)) if low < high else length / 2


def _sample_background(rng: np.random.Generator, config: SceneConfig) -> Background:
    kind = config.backgrounds[int(rng.integers(len(config.backgrounds)))]
    first = _tint(rng)
    if kind == "gradient":
        return Background(kind, (first, _tint(rng)), float(rng.uniform(0, 2 * math.pi)))
    if kind == "blobs":
        blobs = tuple(
            Blob(
                x=float(rng.uniform(0, config.width)),
                y=float(rng.uniform(0, config.height)),
                radius=float(rng.uniform(0.15, 0.4)) * config.width,
                change=_rgb(rng.uniform(-30, 30) + rng.uniform(-8, 8, 3)),
            )
            for _ in range(int(rng.integers(2, 5)))
        )
        return Background(kind, (first,), blobs=blobs)
    return Background(kind, (first,))


def _tint(rng: np.random.Generator) -> tuple[float, float, float]:
    """Return a grey with a little colour, never as strong as the colour of a thing."""
    return _rgb(rng.uniform(60, 180) + rng.uniform(-10, 10, 3))


def _rgb(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, float, float]:
    red, green, blue = values.tolist()
    return red, green, blue


def _sample_occluders(rng: np.random.Generator, config: SceneConfig) -> tuple[Occluder, ...]:
    low, high = config.occluders
    if high == 0:
        return ()
    return tuple(
        Occluder(
            x=float(rng.uniform(0, config.width)),
            y=float(rng.uniform(0, config.height)),
            width=float(rng.uniform(0.06, 0.12)) * config.width,
            height=float(rng.uniform(0.5, 0.9)) * config.height,
            angle=float(rng.uniform(0, math.pi)),
            colour=_rgb(rng.uniform(70, 170) * np.ones(3)),
        )
        for _ in range(int(rng.integers(low, high + 1)))
    )


def _visible_enough(scene: Scene, least: float) -> bool:
    apart = not scene.occluders and all(
        math.hypot(a.x - b.x, a.y - b.y) > (a.size + b.size) / 2
        for place, a in enumerate(scene.things)
        for b in scene.things[:place]
    )
    if apart or least == 0:
        return True
    visible, whole = masks(scene)
    return bool((visible.sum((1, 2)) >= least * whole.sum((1, 2))).all())
