"""Drawing motions: which things there are, and what they do when."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from pydantic import Field, model_validator

from chiasm.core.config import Config
from chiasm.core.errors import ConfigError, UnknownNameError
from chiasm.data.world.domains import DOMAINS
from chiasm.data.world.motion import ACTIONS, TURNING, Act, Motion, Mover, Place
from chiasm.data.world.sampling import SPLITS, Triple, compositions
from chiasm.data.world.scene import COLOURS, SHAPES, TEXTURES

SLOTS = 3
"""Things rest in different cells of a grid of so many rows and columns."""

ATTEMPTS = 200


class MotionConfig(Config):
    """What videos of one kind are made of. Ranges include both ends; lengths are in frames."""

    height: int = Field(default=64, ge=32)
    width: int = Field(default=64, ge=32)
    rate: float = Field(default=8.0, gt=0)
    """Frames a second."""
    frames: tuple[int, int] = (64, 96)
    """Length: least and most."""
    things: tuple[int, int] = (2, 3)
    shapes: tuple[str, ...] = tuple(SHAPES)
    colours: tuple[str, ...] = tuple(COLOURS)
    textures: tuple[str, ...] = ("plain",)
    period: int = Field(default=6, ge=2)
    """Period of textures in pixels, even."""
    sizes: tuple[float, float] = (0.19, 0.27)
    """Diameter of things, as a part of the canvas's shorter side."""
    tilt: float = Field(default=0.15, ge=0, le=0.3)
    """Largest turn of a resting thing to either side, in radians."""
    acts: tuple[str, ...] = tuple(ACTIONS)
    """What things do, at any time."""
    moments: tuple[str, ...] = ()
    """What happens once, in the opening, and never again: what a long memory is asked about."""
    opening: int = Field(default=0, ge=0)
    """The moments happen in the first so many frames, and nothing else does."""
    lengths: tuple[int, int] = (8, 18)
    """Of an act."""
    pauses: tuple[int, int] = (3, 12)
    """Before an act, since the one before."""
    together: int = Field(default=1, ge=1, le=3)
    """Most acts at the same time."""
    domains: tuple[str, ...] = tuple(DOMAINS)
    """Video i is of domain i modulo their number, so each has its exact share."""
    noise: tuple[float, float] = (1.0, 3.0)
    kinds: tuple[str, ...] = ()
    """Question kinds asked about these videos; empty for all."""

    @model_validator(mode="after")
    def _check(self) -> MotionConfig:
        faults = []
        chosen = (
            ("shapes", self.shapes, tuple(SHAPES)),
            ("colours", self.colours, tuple(COLOURS)),
            ("textures", self.textures, tuple(TEXTURES)),
            ("acts", self.acts, tuple(ACTIONS)),
            ("domains", self.domains, tuple(DOMAINS)),
        )
        for name, given, known in chosen:
            if not given or not set(given) <= set(known):
                faults.append(f"{name}: {list(given)}; give some of: {', '.join(known)}")
        if not set(self.moments) <= set(ACTIONS) - set(self.acts) - {"collide"}:
            faults.append(
                f"moments: {list(self.moments)}; give actions of one thing that are not among acts"
            )
        if self.moments and not (self.kinds and set(self.kinds) <= {"colour", "shape"}):
            faults.append(f"kinds: {list(self.kinds)}; about moments, colour and shape are asked")
        ranges = (
            ("frames", self.frames, 2),
            ("things", self.things, 1),
            ("lengths", self.lengths, 2),
            ("pauses", self.pauses, 1),
        )
        for name, (low, high), least in ranges:
            if not least <= low <= high:
                faults.append(f"{name}: {(low, high)} is no range; give (least >= {least}, most)")
        if not 0 < self.sizes[0] <= self.sizes[1] <= 0.3:
            faults.append(f"sizes: {self.sizes}; a third of the canvas holds a thing up to 0.3")
        if not 0 <= self.noise[0] <= self.noise[1]:
            faults.append(f"noise: {self.noise} is no range; give (least >= 0, most)")
        if self.things[1] >= SLOTS * SLOTS:
            faults.append(f"things: {self.things[1]}; at most {SLOTS * SLOTS - 1} can move")
        needed = len(self.moments) * (self.lengths[1] + self.pauses[1])
        if bool(self.moments) != bool(self.opening) or self.opening < needed:
            faults.append(f"opening: {self.opening} frames for {len(self.moments)} moments")
        if self.opening > self.frames[0] or self.period % 2 or self.height % 2 or self.width % 2:
            faults.append("the opening fits into the video; period, height and width are even")
        if faults:
            raise ValueError("; ".join(faults))
        return self


def domain_at(config: MotionConfig, index: int) -> str:
    """Return the domain of video `index`."""
    return config.domains[index % len(config.domains)]


def sample_motion(rng: np.random.Generator, config: MotionConfig, split: str, index: int) -> Motion:
    """Draw one motion.

    In the split `composition` exactly one thing has a held-out composition of shape, colour and
    texture, as in still scenes; in the other splits none has.

    Args:
        rng: The random numbers, see `stream`.
        config: What the motion is made of.
        split: One of `SPLITS`.
        index: Of the video; tells its domain.

    Raises:
        UnknownNameError: The split is not known.
        ConfigError: The motion asked for is impossible.
    """
    if split not in SPLITS:
        raise UnknownNameError("split", split, SPLITS)
    frames = int(rng.integers(config.frames[0], config.frames[1] + 1))
    looks = _looks(rng, config, split, int(rng.integers(config.things[0], config.things[1] + 1)))
    stage = _Stage(rng, config, frames, looks)
    if config.moments:
        stage.open()
    stage.play()
    return Motion(
        height=config.height,
        width=config.width,
        rate=config.rate,
        frames=frames,
        domain=domain_at(config, index),
        movers=tuple(stage.movers),
        acts=tuple(sorted(stage.acts, key=lambda act: (act.start, act.thing))),
        look_seed=int(rng.integers(2**31)),
        gain=float(rng.uniform(0.85, 1.0)),
        noise=float(rng.uniform(*config.noise)),
        noise_seed=int(rng.integers(2**31)),
    )


def _looks(rng: np.random.Generator, config: MotionConfig, split: str, count: int) -> list[Triple]:
    """Draw looks of which no two share a colour or a shape, so that either word names one."""
    seen, held_out = compositions(config.shapes, config.colours, config.textures)
    if not seen or (split == "composition" and not held_out):
        raise ConfigError(
            f"split {split!r} has no composition of {config.shapes}, {config.colours}, "
            f"{config.textures}; allow more shapes, colours, textures"
        )
    looks: list[Triple] = []
    if split == "composition":
        looks.append(held_out[int(rng.integers(len(held_out)))])
    for _ in range(ATTEMPTS):
        if len(looks) == count:
            order = rng.permutation(count)
            return [looks[int(place)] for place in order]
        look = seen[int(rng.integers(len(seen)))]
        if all(look[0] != other[0] and look[1] != other[1] for other in looks):
            looks.append(look)
    raise ConfigError(
        f"{count} things cannot all differ in colour and in shape within {config.shapes} and "
        f"{config.colours}; ask for fewer things"
    )


@dataclass
class _Stage:
    """A motion while it is drawn."""

    rng: np.random.Generator
    config: MotionConfig
    frames: int
    looks: list[Triple]
    movers: list[Mover] = field(default_factory=list)
    acts: list[Act] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.slots = [int(slot) for slot in self.rng.permutation(SLOTS * SLOTS)[: len(self.looks)]]
        for look, slot in zip(self.looks, self.slots, strict=True):
            size = min(self.config.height, self.config.width) * float(
                self.rng.uniform(*self.config.sizes)
            )
            x, y = self._place(slot, size)
            tilt = float(self.rng.uniform(-self.config.tilt, self.config.tilt))
            self.movers.append(Mover(*look, self.config.period, x, y, size, tilt))
        self.free_from = [0] * len(self.movers)
        """By thing, the frame from which it does nothing."""
        several = len(self.movers) > 1 and "appear" in (*self.config.acts, *self.config.moments)
        # At least one thing is there from the start, and often all are.
        late = int(self.rng.integers(len(self.movers))) if several else 0
        self.absent = {int(thing) for thing in self.rng.permutation(len(self.movers))[:late]}

    def open(self) -> None:
        """Let the moments happen, each once, in any order."""
        now = 0
        for place in self.rng.permutation(len(self.config.moments)):
            now += self._draw(self.config.pauses)
            act = self._act(self.config.moments[int(place)], now, self._draw(self.config.lengths))
            if act is None:
                kind = self.config.moments[int(place)]
                raise ConfigError(
                    f"no thing can {kind} in the opening; allow more things, or shapes that turn"
                )
            self._do(act)
            now = act.end

    def play(self) -> None:
        """Let things act until the video ends, on as many lanes as may act together."""
        lanes = [self.config.opening] * self.config.together
        while True:
            lane = lanes.index(min(lanes))
            start = lanes[lane] + self._draw(self.config.pauses)
            length = self._draw(self.config.lengths)
            if start + length > self.frames:
                return
            act = self._choose(start, length)
            if act is not None:
                self._do(act)
            lanes[lane] = start + length if act is not None else start

    def _choose(self, start: int, length: int) -> Act | None:
        """Return an act of a random kind that something can do now."""
        kinds = [
            self.config.acts[int(place)] for place in self.rng.permutation(len(self.config.acts))
        ]
        for kind in kinds:
            act = self._act(kind, start, length)
            if act is not None:
                return act
        return None

    def _act(self, kind: str, start: int, length: int) -> Act | None:
        able = [
            int(thing)
            for thing in self.rng.permutation(len(self.movers))
            if self.free_from[int(thing)] <= start
            and (kind == "appear") == (int(thing) in self.absent)
            and (kind != "turn" or self.movers[int(thing)].shape in TURNING)
        ]
        if not able or (kind == "collide" and len(able) < 2):
            return None
        thing, end = able[0], start + length
        if kind == "move":
            return Act(kind, thing, start, end, to=self._goal(thing))
        if kind == "collide":
            return Act(kind, thing, start, end, other=able[1])
        return Act(kind, thing, start, end)

    def _do(self, act: Act) -> None:
        self.acts.append(act)
        self.absent.discard(act.thing)
        for thing in act.things:
            self.free_from[thing] = act.end

    def _goal(self, thing: int) -> Place:
        """Move a thing to a cell that is free, and return where it will rest."""
        free = [slot for slot in range(SLOTS * SLOTS) if slot not in self.slots]
        self.slots[thing] = free[int(self.rng.integers(len(free)))]
        return self._place(self.slots[thing], self.movers[thing].size)

    def _place(self, slot: int, size: float) -> Place:
        row, column = divmod(slot, SLOTS)
        x = self._within(column, self.config.width, size)
        return x, self._within(row, self.config.height, size)

    def _within(self, cell: int, length: int, size: float) -> float:
        """Return a coordinate in the middle of a cell, moved as far as the cell has room."""
        side = length / SLOTS
        room = max(0.0, (side - size) / 2 - 0.5)
        return (cell + 0.5) * side + float(self.rng.uniform(-room, room))

    def _draw(self, bounds: tuple[int, int]) -> int:
        return int(self.rng.integers(bounds[0], bounds[1] + 1))
