"""What verbs share that ask a model many questions: loading it, and telling how far they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from chiasm.cli.output import console
from chiasm.core.errors import InputError

if TYPE_CHECKING:
    from chiasm.evaluation.answering import ModelAnswerer
    from chiasm.evaluation.protocols import Answerer
    from chiasm.recipes.build import Family

SECONDS_BETWEEN_LINES = 10.0


def load_any_answerer(run: str, suite: str = "answers") -> Answerer:
    """Load a run that answers about images, pairs or videos, onto the device of this process.

    Args:
        run: A run directory, or the name of a shipped model.
        suite: What the answers are scored with: captions are written by the head for them, where
            a model does not say everything in its own words.

    Raises:
        InputError: The run is of a model that answers nothing, or describes nothing.
        CheckpointError: The run cannot be loaded.
    """
    from accelerate import PartialState

    from chiasm.evaluation.answering import longest_answer
    from chiasm.evaluation.pair_answering import PairAnswerer
    from chiasm.evaluation.suites import CAPTIONS
    from chiasm.evaluation.video_answering import VideoAnswerer, VideoCaptioner
    from chiasm.evaluation.video_language_answering import VideoLanguageAnswerer
    from chiasm.models.long_video import LongVideo
    from chiasm.models.occlusion import Occlusion
    from chiasm.models.video_language import VideoLanguage
    from chiasm.recipes.loading import load_run

    loaded = load_run(run).to(PartialState().device)
    if isinstance(loaded, LongVideo):
        answerer = VideoCaptioner if suite == CAPTIONS else VideoAnswerer
        return answerer(loaded, name=run)
    longest = longest_answer(suite)
    if isinstance(loaded, VideoLanguage):
        return VideoLanguageAnswerer(loaded, run, longest)
    if isinstance(loaded, Occlusion):
        return PairAnswerer(loaded, run, longest)
    return _as_answerer(loaded, run, longest)


def load_answerer(run: str) -> ModelAnswerer:
    """Load a run that answers questions about images, onto the device of this process.

    Args:
        run: A run directory, or the name of a shipped model.

    Raises:
        InputError: The run is of a model without language.
        CheckpointError: The run cannot be loaded.
    """
    from accelerate import PartialState

    from chiasm.recipes.loading import load_run

    return _as_answerer(load_run(run).to(PartialState().device), run)


def _as_answerer(loaded: Family, run: str, longest: int | None = None) -> ModelAnswerer:
    from chiasm.evaluation.answering import MOST_NEW_TOKENS, ModelAnswerer
    from chiasm.models.dual_encoder import DualEncoder
    from chiasm.models.grounding import Grounding

    # What points answers as its base does.
    model = loaded.base if isinstance(loaded, Grounding) else loaded
    if not isinstance(model, DualEncoder):
        raise InputError(
            f"{run} is a {type(model).__name__}, which answers no questions; give a run of a model "
            "with a host"
        )
    return ModelAnswerer(model, run, longest or MOST_NEW_TOKENS)


@contextmanager
def asking(total: int, unit: str = "questions") -> Iterator[Callable[[str, int], None]]:
    """Show how many of `total` questions are answered, for each stage of the work.

    Args:
        total: Questions of one stage.
        unit: What is counted, where it is not questions.

    Yields:
        A function of a stage's name and the number of questions just answered.
    """
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as progress:
            yield _Bars(progress, total, unit)
    else:
        yield _Lines(total, unit)


class _Bars:
    def __init__(self, progress: Progress, total: int, unit: str) -> None:
        self.progress = progress
        self.total = total
        self.unit = unit
        self.tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, count: int) -> None:
        if stage not in self.tasks:
            self.tasks[stage] = self.progress.add_task(stage, total=self.total, rate="")
        task = self.progress.tasks[self.progress.task_ids.index(self.tasks[stage])]
        rate = f"{task.speed:.1f} {self.unit}/s" if task.speed else ""
        self.progress.update(self.tasks[stage], advance=count, rate=rate)


class _Lines:
    def __init__(self, total: int, unit: str) -> None:
        self.total = total
        self.unit = unit
        self.stage = ""
        self.done = 0
        self.told = 0.0

    def __call__(self, stage: str, count: int) -> None:
        if stage != self.stage:
            self.stage, self.done, self.told = stage, 0, monotonic()
        self.done += count
        if self.done >= self.total or monotonic() - self.told > SECONDS_BETWEEN_LINES:
            self.told = monotonic()
            console.print(f"{stage}: {self.done} of {self.total} {self.unit}", markup=False)
