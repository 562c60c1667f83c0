"""Visual domains of moving scenes: other backgrounds and palettes for the same things and acts.

A colour word keeps its place among the colours of its domain, but not its RGB: what is called
orange in one domain lies near the red of another. So a model has to know where it is.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chiasm.data.world.scene import COLOURS, RGB

Canvas = NDArray[np.float32]
Backdrop = Callable[[np.random.Generator, int, int], Canvas]
"""(chance, height, width) -> float32 (H, W, 3), intensities."""


@dataclass(frozen=True)
class Domain:
    """How videos of one kind look.

    Attributes:
        backdrop: Paints the background.
        hue: Turn of all hues, in parts of the colour circle.
        saturation: Factor on saturations.
        brightness: Factor on intensities of things.
    """

    backdrop: Backdrop
    hue: float = 0.0
    saturation: float = 1.0
    brightness: float = 1.0

    def palette(self) -> dict[str, RGB]:
        """Return colour name -> RGB in this domain."""
        return {name: self._seen(colour) for name, colour in COLOURS.items()}

    def _seen(self, colour: RGB) -> RGB:
        hue, saturation, value = colorsys.rgb_to_hsv(*(part / 255 for part in colour))
        saturation = min(1.0, saturation * self.saturation)
        value = min(1.0, value * self.brightness)
        red, green, blue = colorsys.hsv_to_rgb((hue + self.hue) % 1, saturation, value)
        return 255 * red, 255 * green, 255 * blue


def _flat(colour: RGB, height: int, width: int) -> Canvas:
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:] = colour
    return canvas


def _pitch(rng: np.random.Generator, height: int, width: int) -> Canvas:
    """A mown lawn with a white line."""
    canvas = _flat((96, 112, 82), height, width)
    stripe = max(2, width // 6)
    light = ((np.arange(width) + int(rng.integers(2 * stripe))) // stripe) % 2 == 0
    canvas[:, light] *= 1.12
    line = int(rng.integers(height // 6, 5 * height // 6))
    canvas[line : line + max(1, height // 48)] = 170
    return canvas


def _desk(rng: np.random.Generator, height: int, width: int) -> Canvas:
    """A cutting mat: warm, with a grid."""
    canvas = _flat((128, 114, 92), height, width)
    step = max(4, width // 8)
    first, second = int(rng.integers(step)), int(rng.integers(step))
    canvas[first::step] *= 0.82
    canvas[:, second::step] *= 0.82
    return canvas


def _studio(rng: np.random.Generator, height: int, width: int) -> Canvas:
    """A dark blue studio that brightens downwards, with a band of letters below."""
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    dark, bright = np.asarray((28, 32, 44), np.float32), np.asarray((78, 84, 100), np.float32)
    canvas = np.broadcast_to(dark + down * (bright - dark), (height, width, 3)).copy()
    band = height - max(3, height // 9)
    canvas[band:] = (122, 34, 40)
    canvas[band + 1 : -1, rng.random(width) < 0.4] = 180
    return canvas


def _room(rng: np.random.Generator, height: int, width: int) -> Canvas:
    """Any grey, with soft spots."""
    canvas = _flat((0, 0, 0), height, width)
    canvas += rng.uniform(70, 130) + rng.uniform(-10, 10, 3).astype(np.float32)
    for _ in range(int(rng.integers(1, 4))):
        radius = rng.uniform(0.2, 0.5) * width
        across = np.exp(-(((np.arange(width) - rng.uniform(0, width)) / radius) ** 2))
        down = np.exp(-(((np.arange(height) - rng.uniform(0, height)) / radius) ** 2))
        spot = (down[:, None] * across[None]).astype(np.float32)
        canvas += spot[..., None] * np.float32(rng.uniform(-25, 25))
    return canvas


DOMAINS: dict[str, Domain] = {
    "sports": Domain(_pitch, saturation=1.2, brightness=1.15),
    "tutorials": Domain(_desk, hue=-0.04, saturation=0.75, brightness=1.25),
    "news": Domain(_studio, hue=0.04, brightness=0.9),
    "general": Domain(_room),
}
"""Domain name -> how it looks. The order is part of the random streams."""
