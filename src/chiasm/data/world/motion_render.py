"""From a motion to its frames, one at a time: fast, and the same whichever frame is asked for.

A thing that looks the same and lies at the same part of a pixel is painted once and then laid over
the background: places are rounded to a quarter of a pixel, turns to a hundredth of a circle.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chiasm.core.config import lookup
from chiasm.core.errors import InputError
from chiasm.data.world.domains import DOMAINS
from chiasm.data.world.motion import Motion, Mover, State, Timeline
from chiasm.data.world.outlines import SHAPES
from chiasm.data.world.textures import modulation

Float = NDArray[np.float32]

PHASES = 4
"""Parts of a pixel that a centre may lie on, along each axis."""

TURNS = 100
"""Angles of a whole turn."""

SCALES = 16
"""Sizes of a thing that grows."""

GLOW = 1.4
"""Radius of a glow, in radii of its thing."""

GLOW_LIGHT = 238.0
SCREEN = 1.25
"""Width of a screen, in sizes of the thing behind it."""

SCREEN_GREY = 96.0
NOISES = 16
"""Different noise pictures; frames take them in turn."""

CACHED = 4096
"""Most painted things kept."""

Look = tuple[int, int, int, int, int, bool]
"""Thing, phase along X and along Y, angle, scale, glow."""


@dataclass(frozen=True)
class _Sprite:
    """A painted thing: its light, and the part of what lies behind it that still shows.

    Attributes:
        light: float32 (n, n, 3).
        keep: float32 (n, n, 1) in [0, 1].
        half: Pixels from its first row and column to the one its centre lies in.
    """

    light: Float
    keep: Float
    half: int


class MotionFrames:
    """The frames of a motion: a `FrameSource`.

    Args:
        motion: What happens.

    Raises:
        UnknownNameError: Its domain is not known.
    """

    def __init__(self, motion: Motion) -> None:
        self.motion = motion
        self.timeline = Timeline(motion)
        domain = lookup(DOMAINS, motion.domain, "domain")
        self._palette = domain.palette()
        chance = np.random.default_rng([motion.look_seed, 0])
        backdrop = domain.backdrop(chance, motion.height, motion.width)
        # Half a step makes the rounding down at the end a rounding.
        self._backdrop = backdrop * np.float32(motion.gain) + np.float32(0.5)
        self._noise = self._draw_noise()
        self._sprites: OrderedDict[Look, _Sprite] = OrderedDict()

    @property
    def times(self) -> NDArray[np.float64]:
        """Presentation time of each frame in seconds, float64 (T,)."""
        return np.arange(self.motion.frames) / self.motion.rate

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.motion.duration

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.motion.frames

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Go through the frames in order, in the memory of one."""
        return map(self.frame, range(self.motion.frames))

    def frames(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Return frames uint8 (indices, H, W, 3) in [0, 255].

        Raises:
            InputError: An index is outside the video.
        """
        found = np.empty((len(indices), self.motion.height, self.motion.width, 3), np.uint8)
        for place, index in enumerate(indices):
            found[place] = self.frame(index)
        return found

    def frame(self, index: int) -> NDArray[np.uint8]:
        """Return one frame uint8 (H, W, 3) in [0, 255].

        Raises:
            InputError: The index is outside the video.
        """
        if not 0 <= index < self.motion.frames:
            raise InputError(f"frame {index} of {self.motion.frames}; indices go from 0")
        canvas = self._backdrop.copy()
        states = [self.timeline.state(thing, index) for thing in range(len(self.motion.movers))]
        for thing, state in enumerate(states):
            if state.scale > 0:
                self._lay(canvas, self._sprite(thing, state), state)
        for mover, state in zip(self.motion.movers, states, strict=True):
            if state.covered > 0:
                self._screen(canvas, mover, state)
        if len(self._noise):
            canvas += self._noise[(index * 7 + self.motion.noise_seed) % NOISES]
        np.clip(canvas, 0, 255, out=canvas)
        return canvas.astype(np.uint8)

    def _draw_noise(self) -> Float:
        motion = self.motion
        if motion.noise <= 0:
            return np.zeros((0, motion.height, motion.width, 3), np.float32)
        chance = np.random.default_rng([motion.noise_seed, 1])
        shape = (NOISES, motion.height, motion.width, 3)
        return chance.standard_normal(shape, np.float32) * np.float32(motion.noise)

    def _lay(self, canvas: Float, sprite: _Sprite, state: State) -> None:
        left, top = _pixel(state.x) - sprite.half, _pixel(state.y) - sprite.half
        side = len(sprite.light)
        first_row, first_column = max(0, -top), max(0, -left)
        last_row = min(side, self.motion.height - top)
        last_column = min(side, self.motion.width - left)
        if first_row >= last_row or first_column >= last_column:
            return
        part = (slice(first_row, last_row), slice(first_column, last_column))
        window = canvas[top + first_row : top + last_row, left + first_column : left + last_column]
        window *= sprite.keep[part]
        window += sprite.light[part]

    def _screen(self, canvas: Float, mover: Mover, state: State) -> None:
        reach = SCREEN * mover.size / 2
        left, right = round(state.x - reach), round(state.x + reach)
        top = round(state.y - reach)
        bottom = round(state.y - reach + 2 * reach * state.covered)
        grey = np.float32(SCREEN_GREY * self.motion.gain)
        canvas[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = grey

    def _sprite(self, thing: int, state: State) -> _Sprite:
        look: Look = (
            thing,
            _phase(state.x),
            _phase(state.y),
            round(state.angle / (2 * math.pi) * TURNS) % TURNS,
            max(1, round(state.scale * SCALES)),
            state.lit,
        )
        found = self._sprites.get(look)
        if found is None:
            found = self._paint(self.motion.movers[thing], look)
            self._sprites[look] = found
            if len(self._sprites) > CACHED:
                self._sprites.popitem(last=False)
        return found

    def _paint(self, mover: Mover, look: Look) -> _Sprite:
        _, phase_x, phase_y, turn, scale, lit = look
        radius = mover.size / 2 * scale / SCALES
        half = math.ceil(radius * (GLOW if lit else 1.0)) + 1
        pixels = np.arange(2 * half + 2)
        across = (pixels + 0.5 - half - phase_x / PHASES)[None]
        down = (pixels + 0.5 - half - phase_y / PHASES)[:, None]
        angle = 2 * math.pi * turn / TURNS
        cosine, sine = math.cos(angle), math.sin(angle)
        own_x = ((across * cosine + down * sine) / radius).astype(np.float32)
        own_y = ((down * cosine - across * sine) / radius).astype(np.float32)
        depth = SHAPES[mover.shape](own_x, own_y) * np.float32(-radius)
        cover = np.clip(depth + np.float32(0.5), 0, 1)[..., None]
        places = pixels - half
        texture = modulation(mover.texture, mover.texture_period, places, places)
        gain = np.float32(self.motion.gain)
        colour = np.asarray(self._palette[mover.colour], np.float32) * gain
        light = cover * colour * (1 + texture)[..., None]
        keep = 1 - cover
        if lit:
            distance = np.sqrt(across**2 + down**2)
            glow = np.clip(GLOW * radius + 0.5 - distance, 0, 1).astype(np.float32)[..., None]
            light += keep * glow * np.float32(GLOW_LIGHT) * gain
            keep = keep * (1 - glow)
        return _Sprite(light, keep, half)


def _pixel(place: float) -> int:
    """Return the pixel that a centre lies in, after rounding to a phase."""
    return math.floor(place * PHASES + 0.5) // PHASES


def _phase(place: float) -> int:
    """Return where in its pixel a centre lies, in parts of a pixel."""
    return math.floor(place * PHASES + 0.5) % PHASES
