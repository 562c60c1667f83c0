"""Visual chain of thought scored: the answers by a judge, the regions by their overlap."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from accelerate import PartialState
from accelerate.utils import gather_object

from chiasm.core.errors import InputError
from chiasm.core.samples import Sample
from chiasm.data.media import load_image
from chiasm.evaluation.bootstrap import Bootstrap, Interval
from chiasm.evaluation.judges import Judge, Score, as_judge, contains_match
from chiasm.evaluation.protocols import Described, settings_of
from chiasm.evaluation.provenance import code_commit, fingerprint, installed_versions
from chiasm.evaluation.region_questions import REGION
from chiasm.evaluation.saving import save_report
from chiasm.inference.chain_of_thought import ANSWER_TOKENS, Closer, Thought, ThoughtAnswer

SUITE = "chain_of_thought"

Box = Sequence[float]


class Thinker(Described, Protocol):
    """Answers a question about a picture, with or without a closer look."""

    def think(
        self, sample: Sample, thought: Thought, closer: Closer, max_new_tokens: int
    ) -> ThoughtAnswer:
        """Answer the first user turn of a sample about its only picture."""
        ...


@dataclass(frozen=True)
class ThoughtOptions:
    """How an evaluation is run.

    Attributes:
        thought: What is looked at closer.
        judge: Scores the answers.
        closer: How regions are cut.
        max_new_tokens: Longest answer in tokens.
        bootstrap: How intervals are drawn.
        data: Name of the data, for the report.
        progress: Called with the number of questions just answered.
    """

    thought: Thought = "object"
    judge: Judge | Score = contains_match
    closer: Closer = field(default_factory=Closer)
    max_new_tokens: int = ANSWER_TOKENS
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    data: str = ""
    progress: Callable[[int], None] | None = None


@dataclass(frozen=True)
class ThoughtScore:
    """One question with what was looked at and said.

    Attributes:
        identifier: Of the sample.
        question: The question.
        answers: Accepted answers.
        group: Group of the sample.
        text: What the model said.
        phrase: What was pointed at; empty without.
        region: What was looked at closer, XYXY; None where nothing was found.
        truth: The given box, XYXY; None where the record has none.
        score: The judge's, in [0, 1].
        region_iou: Of region and given box; 0 where nothing was looked at; None without a box.
        box_iou: Of the mask's own box and the given box, as `region_iou`.
    """

    identifier: str
    question: str
    answers: tuple[str, ...]
    group: str
    text: str
    phrase: str
    region: tuple[int, ...] | None
    truth: tuple[float, ...] | None
    score: float
    region_iou: float | None
    box_iou: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the line of the predictions file."""
        line = asdict(self)
        return {"id": line.pop("identifier"), **line}


@dataclass(frozen=True)
class ThoughtGroup:
    """Numbers of one group.

    Attributes:
        name: Name of the group.
        count: Number of questions.
        without_region: Questions for which nothing was found to look at.
        scores: `score`, and where there are boxes and a thought `region_iou` and `box_iou`.
    """

    name: str
    count: int
    without_region: int
    scores: Mapping[str, Interval]


@dataclass(frozen=True)
class ThoughtReport:
    """Everything one evaluation found.

    Attributes:
        overall: Numbers of all questions.
        by_group: Numbers by group, sorted by name.
        scores: One a question, in order.
        context: What shaped the numbers.
    """

    overall: ThoughtGroup
    by_group: Sequence[ThoughtGroup]
    scores: Sequence[ThoughtScore]
    context: Mapping[str, Any]

    def numbers(self) -> dict[str, float]:
        """Return means by name, and `name/group` for each group."""
        found = {name: interval.mean for name, interval in self.overall.scores.items()}
        for group in self.by_group:
            for name, interval in group.scores.items():
                found[f"{name}/{group.name or 'none'}"] = interval.mean
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the report without single answers, as plain values."""
        return {
            "suite": SUITE,
            "overall": asdict(self.overall),
            "by_group": [asdict(group) for group in self.by_group],
            "context": dict(self.context),
        }

    def save(self, path: Path | str) -> tuple[Path, Path]:
        """Write the report, and the answers beside it as `NAME.predictions.jsonl`.

        Returns:
            Both paths.
        """
        return save_report(path, self.to_json(), (score.to_json() for score in self.scores))


def evaluate_thoughts(
    model: Thinker, samples: Sequence[Sample], options: ThoughtOptions | None = None
) -> ThoughtReport:
    """Answer every question and score answers and regions.

    Under several processes each answers every n-th question and all get the whole report.

    Args:
        model: Answers with a closer look.
        samples: One question about one picture each, with `truth["answers"]` and, where known,
            `truth["region"]`; see `evaluation.region_questions`.
        options: How.

    Raises:
        InputError: There is no question, or the judge or the model fails.
        MediaError: A picture cannot be read.
    """
    options = options or ThoughtOptions()
    judge = as_judge(options.judge)
    if not samples:
        raise InputError(f"evaluation of {options.data or 'the data'}: no samples; give at least 1")
    state = PartialState()
    mine = range(state.process_index, len(samples), state.num_processes)
    scored = [(place, _score(model, samples[place], judge, options)) for place in mine]
    unreadable = sum(gather_object([judge.unreadable]))
    by_place = dict(gather_object(scored))
    scores = [by_place[place] for place in range(len(samples))]
    names = sorted({score.group for score in scores})
    context = {
        **settings_of(model),
        "data": options.data,
        "thought": options.thought,
        "region_scale": options.closer.scale,
        "region_least": options.closer.least,
        "max_new_tokens": options.max_new_tokens,
        "judge": judge.name,
        "judge_replies_without_number": unreadable,
        "questions": len(scores),
        "identifiers_sha256": fingerprint(score.identifier for score in scores),
        "processes": state.num_processes,
        "intervals": options.bootstrap.method,
        "seed": options.bootstrap.seed,
        "versions": installed_versions(),
        "commit": code_commit(),
    }
    return ThoughtReport(
        overall=_gather("all", scores, options),
        by_group=tuple(
            _gather(name, [score for score in scores if score.group == name], options)
            for name in names
        ),
        scores=scores,
        context=context,
    )


def box_iou(first: Box, second: Box) -> float:
    """Return intersection over union of two boxes XYXY; both have an area."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return shared / (areas - shared)


def _score(model: Thinker, sample: Sample, judge: Judge, options: ThoughtOptions) -> ThoughtScore:
    answers = sample.truth.get("answers")
    if not answers:
        raise InputError(f"{sample.origin or sample.identifier}: no accepted answers to score by")
    found = model.think(sample, options.thought, options.closer, options.max_new_tokens)
    if options.progress is not None:
        options.progress(1)
    truth: Box | None = sample.truth.get(REGION)
    box = None if found.mask is None else found.mask.box
    compared = None if options.thought == "none" else truth
    return ThoughtScore(
        identifier=sample.identifier,
        question=found.question,
        answers=tuple(answers),
        group=sample.group,
        text=found.text,
        phrase="" if found.mask is None else found.mask.phrase,
        region=found.region,
        truth=None if truth is None else tuple(truth),
        score=judge(found.question, found.text, answers),
        region_iou=None if compared is None else _overlap(found.region, compared),
        box_iou=None if compared is None else _overlap(box, compared),
    )


def _overlap(box: Box | None, truth: Box) -> float:
    return 0.0 if box is None else box_iou(box, truth)


def _gather(name: str, scores: Sequence[ThoughtScore], options: ThoughtOptions) -> ThoughtGroup:
    numbers = {"score": [found.score for found in scores]}
    numbers["region_iou"] = [s.region_iou for s in scores if s.region_iou is not None]
    numbers["box_iou"] = [s.box_iou for s in scores if s.box_iou is not None]
    return ThoughtGroup(
        name=name,
        count=len(scores),
        without_region=sum(found.region is None for found in scores),
        scores={key: options.bootstrap.mean(values) for key, values in numbers.items() if values},
    )


def picture_of(sample: Sample) -> Any:
    """Return the only picture of a sample as RGB.

    Raises:
        InputError: The sample has not exactly one.
        MediaError: It cannot be read.
    """
    if len(sample.images) != 1:
        raise InputError(
            f"{sample.origin or sample.identifier}: {len(sample.images)} pictures; a closer look "
            "is taken at one"
        )
    return load_image(sample.images[0])
