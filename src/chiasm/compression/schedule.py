"""A curriculum of compression: from many tokens to few, from movement alone to both signals."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field, model_validator

from chiasm.core.config import Config
from chiasm.core.errors import InputError


class Setting(NamedTuple):
    """What holds at one moment of training.

    Attributes:
        ratio: Part of the tokens that is kept, in (0, 1].
        motion: Weight of movement in importance.
        saliency: Weight of saliency.
    """

    ratio: float
    motion: float
    saliency: float


class SchedulePoint(Config):
    """What holds from one moment on.

    Attributes:
        at: The moment, as a part of the training in [0, 1]: step / steps, or epoch / epochs.
        ratio: Part of the tokens that is kept.
        motion: Weight of movement in importance.
        saliency: Weight of saliency.
    """

    at: float = Field(ge=0, le=1)
    ratio: float = Field(gt=0, le=1)
    motion: float = Field(default=0.5, ge=0)
    saliency: float = Field(default=0.5, ge=0)

    @model_validator(mode="after")
    def _some_weight(self) -> SchedulePoint:
        if not self.motion + self.saliency:
            raise ValueError("motion and saliency are both 0; give at least one a weight above 0")
        return self


class ScheduleConfig(Config):
    """The points of a curriculum. After training the last one holds.

    Attributes:
        points: In order, the first at 0. By default nothing is merged at first, then a quarter by
            movement alone, then half by movement and saliency.
        smooth: Whether values run on straight lines from point to point, rather than in steps.
    """

    points: tuple[SchedulePoint, ...] = (
        SchedulePoint(at=0.0, ratio=1.0, motion=1.0, saliency=0.0),
        SchedulePoint(at=1 / 3, ratio=0.75, motion=1.0, saliency=0.0),
        SchedulePoint(at=2 / 3, ratio=0.5, motion=0.5, saliency=0.5),
    )
    smooth: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> ScheduleConfig:
        moments = [point.at for point in self.points]
        if not moments or moments[0] != 0:
            raise ValueError(f"points at {moments}; the first must be at 0")
        if moments != sorted(set(moments)):
            raise ValueError(f"points at {moments}; each must be later than the one before")
        return self

    def build(self) -> Schedule:
        """Build the schedule."""
        return Schedule(
            moments=tuple(point.at for point in self.points),
            settings=tuple(Setting(p.ratio, p.motion, p.saliency) for p in self.points),
            smooth=self.smooth,
        )


class Schedule:
    """Says what holds at a moment of training.

    Args:
        moments: Ascending in [0, 1], the first 0.
        settings: What holds from each moment on.
        smooth: As in the configuration.
    """

    def __init__(
        self, *, moments: tuple[float, ...], settings: tuple[Setting, ...], smooth: bool = False
    ) -> None:
        self.moments = moments
        self.settings = settings
        self.smooth = smooth

    def at(self, progress: float) -> Setting:
        """Return what holds after a part of the training.

        Args:
            progress: In [0, 1]; 1 at the end of training and ever after.

        Raises:
            InputError: Progress is outside of [0, 1].
        """
        if not 0 <= progress <= 1:
            raise InputError(
                f"progress {progress} of training; give step / steps or epoch / epochs, in [0, 1]"
            )
        place = max(i for i, moment in enumerate(self.moments) if moment <= progress)
        here = self.settings[place]
        if not self.smooth or place + 1 == len(self.settings):
            return here
        span = self.moments[place + 1] - self.moments[place]
        share = (progress - self.moments[place]) / span
        following = self.settings[place + 1]
        return Setting(*(a + share * (b - a) for a, b in zip(here, following, strict=True)))
