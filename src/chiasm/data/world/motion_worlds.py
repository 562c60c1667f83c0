"""The moving worlds by name, and any of them as a dataset of videos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from chiasm.core.config import lookup
from chiasm.core.errors import ConfigError, InputError
from chiasm.core.samples import Sample, Turn
from chiasm.data.video_words import ACTIONS_REQUEST, VIDEO_REQUEST, say_segments
from chiasm.data.world.motion import Motion
from chiasm.data.world.motion_questions import MotionQuestion, ask_motion, tell
from chiasm.data.world.motion_render import MotionFrames
from chiasm.data.world.motion_sampling import MotionConfig, domain_at, sample_motion
from chiasm.data.world.sampling import is_held_out, stream

MOTION_STREAM = 10
MOTION_QUESTION_STREAM = 11
ATTEMPTS = 60

Task = Literal["questions", "captions", "actions"]
TASKS: tuple[Task, ...] = ("questions", "captions", "actions")

_MEMORY = MotionConfig(
    frames=(2112, 2112),
    things=(3, 3),
    acts=("move", "turn", "hide"),
    moments=("blink",),
    opening=56,
    pauses=(6, 24),
    kinds=("colour", "shape"),
)

MOTION_WORLDS: dict[str, MotionConfig] = {
    "motion": MotionConfig(),
    "motion_single": MotionConfig(things=(1, 1)),
    "motion_busy": MotionConfig(things=(3, 4), together=2, frames=(96, 144)),
    "motion_memory": _MEMORY,
    "motion_recall": _MEMORY.model_copy(update={"frames": (128, 192)}),
    "motion_moments": MotionConfig(
        frames=(10, 14), things=(3, 4), lengths=(5, 10), pauses=(1, 3), together=2
    ),
}
"""World name -> configuration.

`motion` has two or three things that act in turn, and every question kind. In `motion_busy` two act
at a time. `motion_memory` lasts 2,112 frames: one thing blinks in the first 56, things move, turn
and are hidden for all the rest, and the question is what blinked, more than 2,000 frames ago.
`motion_recall` asks the same of short videos, to learn it on. `motion_single` has one thing.
`motion_moments` lasts a second and a half and is full of things: to learn seeing on, since frames
of one video are much alike, and those of many are not.
"""


@dataclass(frozen=True)
class MotionItem:
    """One item of a moving world before it becomes a sample or a file.

    Attributes:
        motion: What happens.
        questions: At least one question.
        focus: Indices of the things that a split is about; empty for any.
    """

    motion: Motion
    questions: tuple[MotionQuestion, ...]
    focus: tuple[int, ...] = ()


def draw_motion(
    config: MotionConfig, split: str, seed: int, index: int, questions: int = 1
) -> MotionItem:
    """Draw item `index` of a split: a pure function of its arguments, in constant time.

    Raises:
        ConfigError: The videos of this world give no question of the kinds asked for.
    """
    for attempt in range(ATTEMPTS):
        chance = stream(seed, split, index, MOTION_STREAM, attempt)
        motion = sample_motion(chance, config, split, index)
        focus = tuple(
            thing
            for thing, mover in enumerate(motion.movers)
            if split == "composition" and is_held_out(mover.shape, mover.colour, mover.texture)
        )
        chance = stream(seed, split, index, MOTION_QUESTION_STREAM, attempt)
        asked = ask_motion(motion, chance, config.kinds, questions, focus, config.moments)
        if asked:
            return MotionItem(motion, tuple(asked), focus)
    raise ConfigError(
        f"no question of the kinds {config.kinds} fits item {index} of split {split!r} after "
        f"{ATTEMPTS} videos; add a kind, or allow longer videos"
    )


class MotionDataset:
    """A moving world as samples made on demand; their frames are painted when they are read.

    `Sample.video` is a `MotionFrames`, `Sample.segments` says what happens when, and `Sample.group`
    is the domain. `truth` holds `answers`, `kinds` and `seen` of the questions (the seconds
    [start, end] that hold the answer), `captions`, `domain`, and the `motion` in plain values.

    Args:
        world: A name in `MOTION_WORLDS`, or a configuration.
        split: One of `train`, `validation`, `test`, `composition`.
        seed: Seed of the whole data set; the same seed gives splits that share nothing.
        count: Number of samples.
        task: What the conversation is: `questions` with their answers, `captions` (what happens,
            in a sentence), or `actions` (the segments as text).
        questions_per_video: Most questions about one video.
    """

    def __init__(
        self,
        *,
        world: str | MotionConfig,
        split: str = "train",
        seed: int = 0,
        count: int = 1000,
        task: Task = "questions",
        questions_per_video: int = 1,
    ) -> None:
        if count < 1 or questions_per_video < 1:
            raise InputError(
                f"count={count}, questions_per_video={questions_per_video}; both must be at least 1"
            )
        if task not in TASKS:
            raise InputError(f"task {task!r} is not allowed; allowed: {', '.join(TASKS)}")
        self.name = world if isinstance(world, str) else "custom"
        self.config = lookup(MOTION_WORLDS, world, "world") if isinstance(world, str) else world
        self.split = split
        self.seed = seed
        self.count = count
        self.task = task
        self.questions_per_video = questions_per_video
        stream(seed, split, 0)  # an unknown split is an error now, not at the first sample

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.count

    def domain_at(self, index: int) -> str:
        """Return the domain of sample `index`, which is known before anything is drawn."""
        return domain_at(self.config, index)

    def __getitem__(self, index: int) -> Sample:
        """Return sample `index`; a pure function of the index.

        Raises:
            IndexError: The index is not in [0, count).
        """
        if not 0 <= index < self.count:
            raise IndexError(f"sample {index} of {self.count}; indices go from 0")
        item = draw_motion(self.config, self.split, self.seed, index, self.questions_per_video)
        return Sample(
            identifier=f"{self.name}/{self.split}/{self.seed}/{index}",
            turns=_turns(item, self.task),
            group=item.motion.domain,
            truth=_truth(item, self.task),
            origin=f"world {self.name}",
            video=MotionFrames(item.motion),
            segments=item.motion.segments,
        )


def _turns(item: MotionItem, task: Task) -> tuple[Turn, ...]:
    said = {
        "questions": [(question.text, question.answer) for question in item.questions],
        "captions": [(VIDEO_REQUEST, tell(item.motion))],
        "actions": [(ACTIONS_REQUEST, say_segments(item.motion.segments))],
    }[task]
    turns: list[Turn] = []
    for request, answer in said:
        turns += [Turn("user", (request,)), Turn("assistant", (answer,), supervised=True)]
    return tuple(turns)


def _truth(item: MotionItem, task: Task) -> dict[str, Any]:
    rate = item.motion.rate
    asked: dict[str, Any] = {
        "answers": [list(question.answers) for question in item.questions],
        "kinds": [question.kind for question in item.questions],
        "seen": [[side / rate for side in question.seen] for question in item.questions],
    }
    return {
        **(asked if task == "questions" else {}),
        "captions": [tell(item.motion)],
        "domain": item.motion.domain,
        "duration": item.motion.duration,
        "motion": item.motion.to_plain(),
    }
