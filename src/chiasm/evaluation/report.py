"""The report of an evaluation: numbers with intervals, baselines, and all that shaped them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chiasm.evaluation.bootstrap import Interval
from chiasm.evaluation.saving import save_report


@dataclass(frozen=True)
class Baseline:
    """What always saying the most frequent answer of each kind scores.

    Attributes:
        score: Mean of the suite's first metric.
        answers: The majority answer of each kind in the group.
        source: Where the majority was counted: "training answers" or "evaluated answers".
        unseen: Questions whose kind the training answers do not hold; they were given the
            majority over all kinds.
    """

    score: float
    answers: Mapping[str, str]
    source: str
    unseen: int = 0


@dataclass(frozen=True)
class GroupResult:
    """Numbers of one group of questions.

    Attributes:
        name: Name of the group.
        count: Number of questions.
        scores: Item metrics with intervals, by name.
        corpus: Corpus metrics by name; None where the group is too small for it.
        baseline: Majority baseline; None for free text.
        other_answers: Answers outside the suite's allowed ones; None where all are allowed.
    """

    name: str
    count: int
    scores: Mapping[str, Interval]
    corpus: Mapping[str, float | None]
    baseline: Baseline | None
    other_answers: int | None


@dataclass(frozen=True)
class Prediction:
    """One answer.

    Attributes:
        identifier: Of the question.
        text: What the model said.
        answers: Accepted answers.
        group: Group of the question.
        kind: Kind of the question.
        scores: Item metrics by name.
        correct: Whether the first metric is 1; None for free text.
    """

    identifier: str
    text: str
    answers: tuple[str, ...]
    group: str
    kind: str
    scores: Mapping[str, float]
    correct: bool | None

    def to_json(self) -> dict[str, Any]:
        """Return the line of the predictions file."""
        line = asdict(self)
        return {"id": line.pop("identifier"), **line}


@dataclass(frozen=True)
class EvaluationReport:
    """Everything one evaluation found.

    Attributes:
        suite: Name of the suite.
        overall: Numbers of all questions.
        by_group: Numbers by group, sorted by name.
        by_kind: Numbers by kind of question, sorted by name.
        predictions: One a question, in order.
        context: What shaped the numbers: model, prompt, dtype, attention backend, pixel budget,
            decoding, versions, commit, data, hash of the question identifiers, seed, the interval
            and normalisation methods.
    """

    suite: str
    overall: GroupResult
    by_group: Sequence[GroupResult]
    by_kind: Sequence[GroupResult]
    predictions: Sequence[Prediction]
    context: Mapping[str, Any]

    def numbers(self) -> dict[str, float]:
        """Return the overall means by metric name, and `metric/group` for each group."""
        found = {name: interval.mean for name, interval in self.overall.scores.items()}
        found |= {name: score for name, score in self.overall.corpus.items() if score is not None}
        for group in self.by_group:
            for name, interval in group.scores.items():
                found[f"{name}/{group.name or 'none'}"] = interval.mean
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the report without predictions, as plain values."""
        return {
            "suite": self.suite,
            "overall": asdict(self.overall),
            "by_group": [asdict(group) for group in self.by_group],
            "by_kind": [asdict(kind) for kind in self.by_kind],
            "context": dict(self.context),
        }

    def save(self, path: Path | str) -> tuple[Path, Path]:
        """Write the report, and the predictions beside it as `NAME.predictions.jsonl`.

        Returns:
            Both paths.
        """
        return save_report(
            path, self.to_json(), (prediction.to_json() for prediction in self.predictions)
        )
