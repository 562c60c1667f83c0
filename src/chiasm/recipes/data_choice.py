"""The part of a recipe that says what is learned from and what is measured on."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from chiasm.core.config import Config
from chiasm.data.fitting import OverLong
from chiasm.data.formats.grounding import GroundingOptions
from chiasm.data.pair_controls import PairControl
from chiasm.data.world.motion_worlds import MOTION_WORLDS, Task
from chiasm.data.world.worlds import WORLDS
from chiasm.recipes.validation import Measure


class Source(Config):
    """Where samples come from: a file of any known form (`path`) or a world made on demand."""

    path: str | None = None
    """JSON, JSONL, Parquet, or a folder of a known layout; relative to where the program runs."""
    format: str = "auto"
    """Name of the file's form, or `auto`."""
    media_root: str | None = None
    """Folder that media paths are relative to; the file's own folder by default."""
    world: str | None = None
    """Name of a procedural world."""
    split: str | None = None
    """Split of a world (by default `train`), or of a file whose records name theirs (all)."""
    count: int | None = Field(default=None, ge=1)
    """Samples of a world; or at most so many samples of a file, from its start."""
    seed: int = 0
    """Seed of a world."""
    questions: int = Field(default=1, ge=0)
    """Questions an image or video of a world; 0 gives a picture and its dense labels alone."""
    task: Task | None = None
    """Of a moving world, what is asked: `questions` (by default), `captions` or `actions`."""
    shrink: int = Field(default=1, ge=1)
    """By how much a world's pictures, with masks and boxes, are made smaller after they are drawn,
    so that one run can learn from pictures of several sizes."""
    phrases: int = Field(default=0, ge=0)
    """Most phrases with masks for each picture of a world, in place of questions."""
    supervise: bool = False
    """Whether training scores the words of a world's phrases."""
    pair: PairControl | None = None
    """What is given of pairs, `given` or a control; None takes samples as they are."""
    dense: bool = False
    """Whether a world gives dense labels on the host's grid."""
    grounding: GroundingOptions = GroundingOptions()
    """How a file of phrases and masks is read."""
    weight: float | None = Field(default=None, gt=0)
    """Share in the mixture; sizes decide when no source of the list has a weight."""
    balance: float | None = Field(default=None, ge=0, le=1)
    """How much this source's domains (its groups) are evened out in training: 1 draws each equally
    often, 0 as often as it has samples, n samples as n ** (1 - balance); None looks at none."""

    @field_validator("world")
    @classmethod
    def _known(cls, world: str | None) -> str | None:
        known = (*WORLDS, *MOTION_WORLDS)
        if world is not None and world not in known:
            raise ValueError(f"unknown world; known: {', '.join(known)}")
        return world

    @model_validator(mode="after")
    def _one_source(self) -> Source:
        if (self.path is None) == (self.world is None):
            raise ValueError("give exactly one of `path` and `world`")
        if self.world is not None and self.count is None:
            raise ValueError("a world has no end: give `count`")
        moving = self.world in MOTION_WORLDS
        still = ("shrink", "phrases", "supervise", "pair", "dense")
        wrong = [name for name in still if moving and name in self.model_fields_set]
        if self.task is not None and not moving:
            wrong.append("task")
        if wrong or (moving and not self.questions):
            raise ValueError(
                f"{', '.join(wrong) or 'questions: 0'}: of no use to {self.world or self.path!r}, "
                f"which is {'a moving world' if moving else 'no moving world'}; leave it out"
            )
        return self


class DataChoice(Config):
    """What is learned from and what is measured on."""

    train: tuple[Source, ...] = Field(min_length=1)
    """Sources of training samples; a stage may name its own."""
    validation: tuple[Source, ...] = ()
    """Sources of the evaluation in the loop; none means no evaluation."""
    measure: tuple[Measure, ...] = Field(default=("answers",), min_length=1)
    """What is measured on them: suites of the evaluation, for which the model writes answers, and
    `loss`, which is cheaper and fits answers of any length. The first picks the best checkpoint."""
    max_length: int | None = Field(default=None, ge=1)
    """Most tokens in a row; None for no limit."""
    over_long: OverLong = "error"
    """What happens to a longer row."""

    @model_validator(mode="after")
    def _measured_as_it_is(self) -> DataChoice:
        told = [
            source.world or source.path for source in self.validation if source.balance is not None
        ]
        if told:
            raise ValueError(
                f"balance of the validation sources {told}: each of their samples is measured "
                "once; leave it out there, groups are reported apart"
            )
        return self
