"""Which frames of a video are looked at: rules over the true presentation times.

No rule divides a duration by a nominal rate: in a video of variable rate, frame i does not lie at
i / rate. A rule picks frames, and their own times go with them.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from chiasm.core.config import Config
from chiasm.core.errors import InputError

Indices = NDArray[np.int64]


class Timeline(Protocol):
    """What a rule knows of a video."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def times(self) -> NDArray[np.float64]:
        """Presentation time of each frame in seconds, float64 (T,), ascending."""
        ...

    @property
    def duration(self) -> float:
        """Seconds from the start of the first frame to the end of the last."""
        ...

    @property
    def key_frames(self) -> Indices:
        """Frames that can be decoded without others, int64 (K,), ascending."""
        ...


class UniformSampling(Config):
    """`count` frames, one in the middle of each of as many equal parts of the duration."""

    kind: Literal["uniform"] = "uniform"
    count: int = Field(ge=1)
    """How many frames."""
    short: Literal["error", "all", "repeat"] = "error"
    """What a video with fewer frames gives: an error, `all` of them, or some more than once."""

    def choose(self, video: Timeline) -> Indices:
        """Return ascending indices int64 (count,), fewer only where `short` is `all`.

        Raises:
            InputError: The video has fewer frames, and `short` is `error`.
        """
        total = len(video.times)
        if total < self.count and self.short == "error":
            raise InputError(
                f"{video.name}: {self.count} frames are asked for, it has {total}; ask for at most "
                "as many, or set short to 'all' or 'repeat'"
            )
        if total < self.count and self.short == "all":
            return np.arange(total, dtype=np.int64)
        middles = (np.arange(self.count) + 0.5) / self.count * video.duration
        found = shown_at(video, video.times[0] + middles)
        if total < self.count:
            return found
        return _distinct(found, total)


class RateSampling(Config):
    """`rate` frames a second: at each tick of a steady clock, the frame that is shown then."""

    kind: Literal["rate"] = "rate"
    rate: float = Field(gt=0, allow_inf_nan=False)
    """Frames a second."""
    most: int | None = Field(default=None, ge=1)
    """More frames than this are an error, before anything is decoded; None for no limit."""

    def choose(self, video: Timeline) -> Indices:
        """Return ascending indices; a frame is repeated where the video has fewer a second.

        Raises:
            InputError: There are more frames than `most`.
        """
        # Rounding must not give or take the tick that falls on the very end.
        count = max(1, int(np.ceil(video.duration * self.rate - 1e-6)))
        if self.most is not None and count > self.most:
            raise InputError(
                f"{video.name}: {count} frames at {self.rate:g} a second, at most {self.most} are "
                "allowed; lower the rate, or sample a count"
            )
        return shown_at(video, video.times[0] + np.arange(count) / self.rate)


class TimesSampling(Config):
    """The frames that are shown at given times."""

    kind: Literal["times"] = "times"
    times: tuple[float, ...] = Field(min_length=1)
    """Seconds of the video's own time, in any order."""

    @field_validator("times")
    @classmethod
    def _finite(cls, times: tuple[float, ...]) -> tuple[float, ...]:
        if not np.isfinite(times).all():
            raise ValueError("times must be finite")
        return times

    def choose(self, video: Timeline) -> Indices:
        """Return one index a time, in the order of the times.

        Raises:
            InputError: A time lies outside the video.
        """
        first, last = float(video.times[0]), float(video.times[0]) + video.duration
        outside = [time for time in self.times if not first - 1e-6 <= time <= last + 1e-6]
        if outside:
            raise InputError(
                f"{video.name}: time {outside[0]:g} s is asked for ({len(outside)} outside), it "
                f"shows {first:g} to {last:g} s"
            )
        return shown_at(video, np.asarray(self.times))


class KeyFrameSampling(Config):
    """Key frames, which decode alone: the cheapest look at a long video."""

    kind: Literal["key_frames"] = "key_frames"
    most: int | None = Field(default=None, ge=1)
    """Where there are more, so many of them spread evenly; None for all."""

    def choose(self, video: Timeline) -> Indices:
        """Return ascending indices."""
        keys = video.key_frames
        if self.most is None or len(keys) <= self.most:
            return keys
        places = (np.arange(self.most) + 0.5) / self.most * len(keys)
        return keys[places.astype(np.int64)]


class AllSampling(Config):
    """Every frame."""

    kind: Literal["all"] = "all"

    def choose(self, video: Timeline) -> Indices:
        """Return all indices."""
        return np.arange(len(video.times), dtype=np.int64)


Sampling = UniformSampling | RateSampling | TimesSampling | KeyFrameSampling | AllSampling
"""A rule; in a recipe told apart by `kind`."""

SAMPLINGS: dict[str, type[Sampling]] = {
    "uniform": UniformSampling,
    "rate": RateSampling,
    "times": TimesSampling,
    "key_frames": KeyFrameSampling,
    "all": AllSampling,
}
"""Name to rule."""


def shown_at(video: Timeline, times: NDArray[np.float64]) -> Indices:
    """Return the frame that is shown at each time: the last that began by then.

    Args:
        video: The video.
        times: Seconds, float64 (N,); before the first frame, the first is taken.
    """
    # A time computed as 3 / 30 may fall a rounding short of the frame that begins there.
    found = np.searchsorted(video.times, times + 1e-6, side="right") - 1
    return np.maximum(found, 0).astype(np.int64)


def looked_at(video: Timeline, indices: Indices) -> NDArray[np.float64]:
    """Return when each chosen frame is looked at, in seconds from the start of the video.

    That is when the frame begins. One that comes several times in a row is looked at in even steps
    while it is shown, so that moments of one still frame differ.

    Args:
        video: The video.
        indices: Which frames, int64 (N,).
    """
    begins = np.asarray(video.times, np.float64) - video.times[0]
    lengths = np.diff(begins, append=video.duration)
    firsts = np.flatnonzero(np.diff(indices, prepend=-1))
    counts = np.diff(firsts, append=len(indices))
    steps = np.arange(len(indices)) - np.repeat(firsts, counts)
    return begins[indices] + lengths[indices] * steps / np.repeat(counts, counts)


def _distinct(indices: Indices, total: int) -> Indices:
    """Move ascending indices apart as little as makes each differ; there is room for all."""
    places = np.arange(len(indices))
    upwards = np.maximum.accumulate(indices - places) + places
    # What was pushed over the end comes back, and pushes those before it.
    return np.minimum(upwards, total - len(indices) + places)
