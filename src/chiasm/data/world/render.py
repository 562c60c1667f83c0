"""From a scene to its picture and its exact masks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from chiasm.data.world.outlines import SHAPES
from chiasm.data.world.scene import COLOURS, Background, Lighting, Occluder, Scene, Thing
from chiasm.data.world.textures import modulation

Float = NDArray[np.float32]

FADE = 3.5
"""Pixels over which a fine texture fades towards an edge. A texture cut off sharply has a spectrum
of its own along the cut, and halving the picture would leave a trace of it there."""


@dataclass(frozen=True)
class Rendering:
    """A painted scene.

    Attributes:
        image: uint8 (H, W, 3) in [0, 255].
        visible: bool (K, H, W), the pixels that show each thing.
        whole: bool (K, H, W), the pixels each thing would show if nothing stood before it.
    """

    image: NDArray[np.uint8]
    visible: NDArray[np.bool_]
    whole: NDArray[np.bool_]


@dataclass(frozen=True)
class _Footprint:
    """Where one object lies: a window of the canvas and, per pixel, pixels inside its edge."""

    rows: slice
    columns: slice
    depth: Float

    @property
    def window(self) -> tuple[slice, slice]:
        return self.rows, self.columns

    @property
    def opacity(self) -> Float:
        """How much of each pixel is covered, float32 (h, w) in [0, 1]."""
        return np.clip(self.depth + np.float32(0.5), 0, 1)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The pixels at least half covered, bool (h, w)."""
        return self.depth >= 0


def render(scene: Scene) -> Rendering:
    """Paint a scene.

    Texture is kept apart from colour until the end, as a relative change of intensity, so that a
    fine texture can fade before every edge, its own or that of a thing in front.
    """
    canvas = _background(scene.background, scene.height, scene.width).copy()
    texture = np.zeros((scene.height, scene.width), np.float32)
    footprints = [_thing_footprint(thing, scene.height, scene.width) for thing in scene.things]
    bars = [_bar_footprint(bar, scene.height, scene.width) for bar in scene.occluders]
    for thing, footprint in zip(scene.things, footprints, strict=True):
        _paint(canvas, texture, footprint, COLOURS[thing.colour])
        texture[footprint.window] += _thing_texture(thing, footprint)
    # What lies behind a bar may be small; only a fine texture has to fade before it.
    fade = any(thing.fine for thing in scene.things)
    for bar, footprint in zip(scene.occluders, bars, strict=True):
        _paint(canvas, texture, footprint, bar.colour, fade)
    texture += 1
    texture *= _light(scene.lighting, scene.height, scene.width)
    canvas *= texture[..., None]
    if scene.noise > 0:
        canvas += np.float32(scene.noise) * _noise(scene.height, scene.width, scene.noise_seed)
    canvas += np.float32(0.5)
    np.clip(canvas, 0, 255, out=canvas)
    visible, whole = _masks(scene, footprints, bars)
    return Rendering(image=canvas.astype(np.uint8), visible=visible, whole=whole)


def masks(scene: Scene) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the visible and the whole masks of a scene, each bool (K, H, W), without painting."""
    footprints = [_thing_footprint(thing, scene.height, scene.width) for thing in scene.things]
    bars = [_bar_footprint(bar, scene.height, scene.width) for bar in scene.occluders]
    return _masks(scene, footprints, bars)


def _masks(
    scene: Scene, things: list[_Footprint], bars: list[_Footprint]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    whole = np.zeros((len(things), scene.height, scene.width), np.bool_)
    for index, footprint in enumerate(things):
        whole[index][footprint.window] = footprint.mask
    visible = whole.copy()
    for index, footprint in enumerate(things):
        visible[:index, footprint.rows, footprint.columns] &= ~footprint.mask
    for footprint in bars:
        visible[:, footprint.rows, footprint.columns] &= ~footprint.mask
    return visible, whole


# A scene is often painted again at once, without what stands before it.
@lru_cache(maxsize=2)
def _noise(height: int, width: int, seed: int) -> Float:
    noise: Float = np.random.default_rng(seed).standard_normal((height, width, 3), np.float32)
    noise.setflags(write=False)
    return noise


@lru_cache(maxsize=2)
def _background(background: Background, height: int, width: int) -> Float:
    colours = np.asarray(background.colours, np.float32)
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:] = colours[0]
    if background.kind == "gradient":
        part = (_ramp(background.direction, height, width) + 1) / 2
        canvas += part[..., None] * (colours[1] - colours[0])
    for blob in background.blobs:
        across = np.exp(-(((np.arange(width) + 0.5 - blob.x) / blob.radius) ** 2))
        down = np.exp(-(((np.arange(height) + 0.5 - blob.y) / blob.radius) ** 2))
        spot = (down[:, None] * across[None, :]).astype(np.float32)
        canvas += spot[..., None] * np.asarray(blob.change, np.float32)
    return canvas


def _light(lighting: Lighting, height: int, width: int) -> Float:
    ramp = _ramp(lighting.direction, height, width)
    return np.float32(lighting.gain) * (1 + np.float32(lighting.slope) * ramp)


def _ramp(direction: float, height: int, width: int) -> Float:
    """Return float32 (H, W) that goes from -1 to 1 across the canvas along a direction."""
    across, down = np.cos(direction), np.sin(direction)
    x = (2 * (np.arange(width) + 0.5) / width - 1) * across
    y = (2 * (np.arange(height) + 0.5) / height - 1) * down
    ramp: Float = ((x[None, :] + y[:, None]) / (abs(across) + abs(down))).astype(np.float32)
    return ramp


def _local(
    centre: tuple[float, float], reach: float, angle: float, height: int, width: int
) -> tuple[slice, slice, Float, Float]:
    """Return the window around an object and its pixels' own (x, y), in pixels from the centre."""
    x, y = centre
    left, right = max(0, int(x - reach)), min(width, int(x + reach) + 1)
    top, bottom = max(0, int(y - reach)), min(height, int(y + reach) + 1)
    rows, columns = slice(top, max(top, bottom)), slice(left, max(left, right))
    across = (np.arange(columns.start, columns.stop) + (0.5 - x))[None, :]
    down = (np.arange(rows.start, rows.stop) + (0.5 - y))[:, None]
    cosine, sine = np.cos(angle), np.sin(angle)
    own_x: Float = (across * cosine + down * sine).astype(np.float32)
    own_y: Float = (down * cosine - across * sine).astype(np.float32)
    return rows, columns, own_x, own_y


def _thing_footprint(thing: Thing, height: int, width: int) -> _Footprint:
    radius = thing.size / 2
    rows, columns, x, y = _local((thing.x, thing.y), radius + FADE + 1, thing.angle, height, width)
    scale = np.float32(radius)
    return _Footprint(rows, columns, SHAPES[thing.shape](x / scale, y / scale) * -scale)


def _bar_footprint(bar: Occluder, height: int, width: int) -> _Footprint:
    reach = float(np.hypot(bar.width, bar.height)) / 2 + FADE + 1
    rows, columns, x, y = _local((bar.x, bar.y), reach, bar.angle, height, width)
    # The distance to a box with rounded corners: to a smaller box, less their radius.
    corner = np.float32(bar.corner)
    beyond_x = np.abs(x) - np.float32(bar.width / 2) + corner
    beyond_y = np.abs(y) - np.float32(bar.height / 2) + corner
    nearest = np.maximum(beyond_x, beyond_y)
    if bar.corner == 0:
        return _Footprint(rows, columns, -nearest)
    outside_x, outside_y = np.maximum(beyond_x, 0), np.maximum(beyond_y, 0)
    outside = np.sqrt(outside_x * outside_x + outside_y * outside_y)
    return _Footprint(rows, columns, corner - outside - np.minimum(nearest, 0))


def _paint(
    canvas: Float,
    texture: Float,
    footprint: _Footprint,
    colour: tuple[float, float, float],
    fade: bool = True,
) -> None:
    """Lay one object over the canvas, and end the textures behind it: before its edge, or at it."""
    window, opacity = canvas[footprint.window], footprint.opacity
    window += opacity[..., None] * (np.asarray(colour, np.float32) - window)
    behind = _smooth(-footprint.depth / np.float32(FADE)) if fade else 1 - opacity
    texture[footprint.window] *= behind


def _thing_texture(thing: Thing, footprint: _Footprint) -> Float:
    # The origin goes with the thing in steps of two pixels: a fine grain stays on the pixel grid,
    # and the squares of a coarse one stay whole when the picture is halved.
    columns = np.arange(footprint.columns.start, footprint.columns.stop) - 2 * int(thing.x / 2)
    rows = np.arange(footprint.rows.start, footprint.rows.stop) - 2 * int(thing.y / 2)
    strength = _smooth(footprint.depth / np.float32(FADE)) if thing.fine else footprint.opacity
    return modulation(thing.texture, thing.texture_period, columns, rows) * strength


def _smooth(part: Float) -> Float:
    """Go from 0 at 0 to 1 at 1 with level ends."""
    part = np.clip(part, 0, 1)
    return part * part * (3 - 2 * part)
