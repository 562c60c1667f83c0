"""A scene that moves, as plain values: what every frame and its truth are computed from.

Places are continuous canvas pixels as in `scene`; time is counted in frames, and frame f is shown
from f / rate to (f + 1) / rate seconds. An act fills the frames [start, end). Between its acts a
thing rests where the last one left it. The state of a thing at a frame is a closed form, so any
frame can be asked for alone.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import asdict, dataclass
from typing import Any

from chiasm.core.samples import Segment

Place = tuple[float, float]
"""X right and Y down, canvas pixels."""

ACTIONS: dict[str, str] = {
    "move": "moved",
    "turn": "turned",
    "blink": "blinked",
    "collide": "collided",
    "appear": "appeared",
    "hide": "was hidden",
}
"""Action, as segments are labelled -> how a question says that it happened.

- `move`: from one place to another in a straight line.
- `turn`: once around, clockwise.
- `blink`: a white glow behind the thing goes on and off.
- `collide`: a thing runs into another one, which is pushed, and both return.
- `appear`: a thing that was not there grows out of nothing.
- `hide`: a grey screen comes down before the thing, and goes up again.
"""

BLINK_PERIOD = 4
"""Frames from one glow to the next; it is on for the first half of them."""

TURNING = ("square", "triangle", "star", "cross", "diamond")
"""Shapes that show that they turn."""

REACH = 0.8
"""How near centres come in a collision, as a part of the sum of the radii."""

PUSH = 0.35
"""How far a thing that was run into is pushed, as a part of its size."""

SHUTTER = 0.2
"""Part of a `hide` in which the screen comes down, and in which it goes up."""


@dataclass(frozen=True)
class Mover:
    """One thing: how it looks, and where it rests at first.

    Attributes:
        shape: Name in `SHAPES`.
        colour: Name in `COLOURS`; what RGB that is, its domain says.
        texture: Name in `TEXTURES`.
        texture_period: Even number of pixels.
        x: Centre.
        y: Centre.
        size: Diameter of the disc that holds the outline, in pixels.
        angle: Clockwise turn in radians.
    """

    shape: str
    colour: str
    texture: str
    texture_period: int
    x: float
    y: float
    size: float
    angle: float = 0.0


@dataclass(frozen=True)
class Act:
    """Something that a thing does.

    Attributes:
        kind: Name in `ACTIONS`.
        thing: Index of the thing.
        start: First frame.
        end: One past the last frame.
        to: Where a move ends; None for other acts.
        other: Index of the thing that is run into; None for other acts.
    """

    kind: str
    thing: int
    start: int
    end: int
    to: Place | None = None
    other: int | None = None

    @property
    def things(self) -> tuple[int, ...]:
        """Indices of everything that takes part, the doer first."""
        return (self.thing,) if self.other is None else (self.thing, self.other)


@dataclass(frozen=True)
class Motion:
    """One video before it is painted.

    Attributes:
        height: Canvas height in pixels.
        width: Canvas width in pixels.
        rate: Frames a second.
        frames: How many frames there are.
        domain: Name in `DOMAINS`: background and palette.
        movers: The things, from back to front.
        acts: What they do, by start.
        look_seed: Seed of the background's details.
        gain: Factor on all intensities.
        noise: Standard deviation of the sensor noise, in intensity.
        noise_seed: Seed of that noise; it changes no truth.
    """

    height: int
    width: int
    rate: float
    frames: int
    domain: str
    movers: tuple[Mover, ...]
    acts: tuple[Act, ...]
    look_seed: int = 0
    gain: float = 1.0
    noise: float = 0.0
    noise_seed: int = 0

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.frames / self.rate

    @property
    def segments(self) -> tuple[Segment, ...]:
        """What happens and when, by start."""
        return tuple(
            Segment(act.start / self.rate, act.end / self.rate, act.kind) for act in self.acts
        )

    def to_plain(self) -> dict[str, Any]:
        """Return the motion as dictionaries, lists and numbers, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class State:
    """A thing at a frame.

    Attributes:
        x: Centre.
        y: Centre.
        angle: Clockwise turn in radians.
        scale: Factor on the size; 0 where the thing is not there.
        lit: Whether it glows.
        covered: How far the screen before it has come down, in [0, 1].
    """

    x: float
    y: float
    angle: float
    scale: float = 1.0
    lit: bool = False
    covered: float = 0.0


class Timeline:
    """Where everything is at any frame, in time logarithmic in the number of acts.

    Args:
        motion: What happens.
    """

    def __init__(self, motion: Motion) -> None:
        self.motion = motion
        self._acts: list[list[Act]] = [[] for _ in motion.movers]
        for act in motion.acts:
            for thing in act.things:
                self._acts[thing].append(act)
        self._starts = [[act.start for act in acts] for acts in self._acts]
        self._places = [self._rests(thing) for thing in range(len(motion.movers))]

    def _rests(self, thing: int) -> list[Place]:
        """Return where a thing rests before each of its acts, and after the last."""
        mover = self.motion.movers[thing]
        places = [(mover.x, mover.y)]
        for act in self._acts[thing]:
            places.append(act.to if act.to is not None else places[-1])
        return places

    def rest(self, thing: int, frame: int) -> Place:
        """Return where a thing rests, or sets out from, at a frame."""
        return self._places[thing][max(0, bisect_right(self._starts[thing], frame) - 1)]

    def state(self, thing: int, frame: int) -> State:
        """Return a thing at a frame."""
        mover, acts = self.motion.movers[thing], self._acts[thing]
        place = bisect_right(self._starts[thing], frame) - 1
        if place < 0:
            absent = bool(acts) and acts[0].kind == "appear"
            return State(mover.x, mover.y, mover.angle, scale=0.0 if absent else 1.0)
        act = acts[place]
        if frame >= act.end:
            x, y = self._places[thing][place + 1]
            return State(x, y, mover.angle)
        return self._acting(thing, act, frame, self._places[thing][place])

    def _acting(self, thing: int, act: Act, frame: int, rest: Place) -> State:
        mover = self.motion.movers[thing]
        # The middle of a frame: its first and last frame show an act, too.
        part = (frame - act.start + 0.5) / (act.end - act.start)
        x, y = rest
        if act.kind == "move" and act.to is not None:
            return State(x + part * (act.to[0] - x), y + part * (act.to[1] - y), mover.angle)
        if act.kind == "turn":
            return State(x, y, mover.angle + 2 * math.pi * part)
        if act.kind == "blink":
            lit = (frame - act.start) % BLINK_PERIOD < BLINK_PERIOD // 2
            return State(x, y, mover.angle, lit=lit)
        if act.kind == "appear":
            return State(x, y, mover.angle, scale=part)
        if act.kind == "hide":
            covered = min(1.0, part / SHUTTER, (1 - part) / SHUTTER)
            return State(x, y, mover.angle, covered=covered)
        across, down = self._collision(thing, act, frame, part)
        return State(x + across, y + down, mover.angle)

    def _collision(self, thing: int, act: Act, frame: int, part: float) -> Place:
        """Return how far a collision has carried a thing from where it rests."""
        other = act.other if act.other is not None else act.thing
        start, goal = self.rest(act.thing, frame), self.rest(other, frame)
        across, down = goal[0] - start[0], goal[1] - start[1]
        distance = math.hypot(across, down) or 1.0
        if thing == act.thing:
            doer, met = self.motion.movers[act.thing], self.motion.movers[other]
            way = max(0.0, distance - REACH * (doer.size + met.size) / 2)
            length = way * (1 - abs(2 * part - 1))
        else:
            pushed = math.sin(math.pi * (2 * part - 1)) if part > 0.5 else 0.0
            length = PUSH * self.motion.movers[other].size * pushed
        return across / distance * length, down / distance * length
