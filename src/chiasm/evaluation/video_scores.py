"""Scores what was predicted about videos: actions in time, answers by kind, captions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from chiasm.core.errors import DataError
from chiasm.core.samples import Sample
from chiasm.data.records import read_records
from chiasm.data.video_words import ACTIONS_REQUEST, VIDEO_REQUEST
from chiasm.evaluation.bootstrap import Bootstrap
from chiasm.evaluation.protocols import REQUIRED_SETTINGS
from chiasm.evaluation.questions import split_questions
from chiasm.evaluation.report import EvaluationReport
from chiasm.evaluation.runner import evaluate
from chiasm.evaluation.saving import save_report
from chiasm.evaluation.suites import ANSWERS, CAPTIONS
from chiasm.metrics.temporal import (
    ACTIVITYNET_THRESHOLDS,
    THUMOS_THRESHOLDS,
    TemporalPrecision,
    temporal_average_precision,
)

THRESHOLDS = {"thumos": THUMOS_THRESHOLDS, "activitynet": ACTIVITYNET_THRESHOLDS}
"""By protocol, the temporal IoU from which a segment counts as found."""


@dataclass(frozen=True)
class VideoScores:
    """What predictions about videos score.

    Attributes:
        detection: By protocol in `THRESHOLDS`; empty where no prediction has segments.
        videos: Videos whose segments were scored.
        texts: By suite, `answers` (exact match by kind of question, with intervals and the majority
            baseline) and `captions` (BLEU-1 to 4, ROUGE-L, CIDEr-D, METEOR approximate); those
            without predictions are left out.
        unscored: Samples that had neither segments nor text to score, by what they ask for.
    """

    detection: Mapping[str, TemporalPrecision] = field(default_factory=dict)
    videos: int = 0
    texts: Mapping[str, EvaluationReport] = field(default_factory=dict)
    unscored: Mapping[str, int] = field(default_factory=dict)

    def numbers(self) -> dict[str, float]:
        """Return plain numbers by name.

        `map_thumos`, `map_thumos@0.5`, ..., `exact_match`, `exact_match/GROUP`,
        `exact_match/kind/KIND`, `rouge_l`, `meteor_approximate`, `bleu_1` to `bleu_4`, `cider_d`.
        """
        found: dict[str, float] = {}
        for name, precision in self.detection.items():
            found[f"map_{name}"] = precision.mean
            for threshold, value in zip(precision.thresholds, precision.per_threshold, strict=True):
                found[f"map_{name}@{threshold:g}"] = value
        for report in self.texts.values():
            found |= report.numbers()
            for kind in report.by_kind:
                for metric, interval in kind.scores.items():
                    found[f"{metric}/kind/{kind.name or 'none'}"] = interval.mean
        return found

    def to_json(self) -> dict[str, Any]:
        """Return all of it without predictions, as plain values."""
        return {
            "detection": {name: asdict(found) for name, found in self.detection.items()},
            "videos": self.videos,
            "texts": {name: report.to_json() for name, report in self.texts.items()},
            "unscored": dict(self.unscored),
        }

    def save(self, path: Path | str) -> tuple[Path, Path]:
        """Write the scores, and the scored texts beside them as `NAME.predictions.jsonl`.

        Returns:
            Both paths.
        """
        lines = (line.to_json() for report in self.texts.values() for line in report.predictions)
        return save_report(path, self.to_json(), lines)


def read_predictions(path: Path | str) -> list[Mapping[str, Any]]:
    """Read predictions, JSONL: `{"id", "text"?, "segments"?}` a line.

    Raises:
        DataError: The file is missing, or lines cannot be read; all of them are named.
    """
    records, faults = read_records(path)
    if faults:
        raise DataError(f"{path}: {len(faults)} fault(s)", [str(fault) for fault in faults])
    return [record.fields for record in records]


def score_videos(
    predictions: Iterable[Mapping[str, Any]],
    samples: Iterable[Sample],
    *,
    train_samples: Iterable[Sample] | None = None,
    bootstrap: Bootstrap | None = None,
    caption_requests: Set[str] = frozenset({VIDEO_REQUEST}),
    settings: Mapping[str, Any] | None = None,
    data: str = "",
) -> VideoScores:
    """Score predictions about videos.

    Segments are scored of all samples whose segments are known, if any prediction has `segments`:
    then each of them needs a prediction that has them, an empty list for a video in which nothing
    was found. Texts are captions where the sample asks for one, else answers; the text of a request
    for actions is not scored, its segments are. If one text of a kind is predicted, all are needed.

    Args:
        predictions: `{"id", "text"?, "segments"?}`. The id is that of the sample, or of one of
            several questions about a video: `ID#0`, `ID#1`, ... Segments are
            `{label, score, segment: [start, end]}` or `{label, score, start, end}`, in seconds.
        samples: The videos with their truth.
        train_samples: For the majority baseline of answers; see `evaluate`.
        bootstrap: How intervals are drawn.
        caption_requests: What samples ask whose answer is a caption, without space around it; see
            `VideoCaptions.requests`.
        settings: What shaped the predictions, for the report; see `Described.describe`.
        data: Name of the data, for the report.

    Raises:
        DataError: A prediction has no id, one that is not known or that came before, or something
            that is needed was not predicted; all faults at once.
        InputError: There is nothing to score, or a segment is unsound.
    """
    samples = list(samples)
    by_task = _by_task(samples, caption_requests)
    known = {sample.identifier for sample in samples}
    known |= {question.identifier for question in split_questions(samples)}
    found = _by_identifier(predictions, known)
    detection, videos = _detection(found, samples)
    texts: dict[str, EvaluationReport] = {}
    training = _by_task(list(train_samples or ()), caption_requests)
    for suite in (ANSWERS, CAPTIONS):
        if not _told(found, by_task[suite], suite):
            continue
        texts[suite] = evaluate(
            _Predicted(found, settings or {}),
            by_task[suite],
            suite,
            train_samples=training[suite] if train_samples is not None else None,
            bootstrap=bootstrap,
            data=data,
        )
    unscored = {
        task: sum(not detection or sample.segments is None for sample in members)
        for task, members in by_task.items()
        if task not in texts
    }
    return VideoScores(
        detection, videos, texts, {task: count for task, count in unscored.items() if count}
    )


class _Predicted:
    """Answers with what was predicted."""

    def __init__(
        self, predictions: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]
    ) -> None:
        self.predictions = predictions
        self.settings = settings

    def describe(self) -> Mapping[str, Any]:
        """What shaped the predictions, as far as it is known."""
        return {**dict.fromkeys(REQUIRED_SETTINGS), "model": "predictions", **self.settings}

    def answers(self, samples: Sequence[Sample]) -> list[str]:
        """The predicted texts."""
        return [str(self.predictions[sample.identifier]["text"]) for sample in samples]


def _by_task(samples: Sequence[Sample], caption_requests: Set[str]) -> dict[str, list[Sample]]:
    """Sort samples by what they ask for; one that asks for several things asks questions."""
    tasks = {**dict.fromkeys(caption_requests, CAPTIONS), ACTIONS_REQUEST: "actions"}
    found: dict[str, list[Sample]] = {ANSWERS: [], CAPTIONS: [], "actions": []}
    for sample in samples:
        asked = {
            tasks.get(before.text.strip(), ANSWERS)
            for before, turn in zip(sample.turns, sample.turns[1:], strict=False)
            if turn.supervised and before.role == "user"
        }
        found[next(iter(asked)) if len(asked) == 1 else ANSWERS].append(sample)
    return found


def _by_identifier(
    predictions: Iterable[Mapping[str, Any]], known: set[str]
) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    faults = []
    for place, prediction in enumerate(predictions):
        name = prediction.get("id")
        wrong = _wrong(prediction)
        if not isinstance(name, str):
            faults.append(f"prediction {place}: id {name!r}; give the text that names the sample")
        elif name not in known:
            faults.append(f"prediction {place}: id {name!r} is not among the samples")
        elif name in found:
            faults.append(f"prediction {place}: id {name!r} came before")
        elif wrong:
            faults.append(f"prediction {place}: {wrong}")
        else:
            found[name] = prediction
    if faults:
        raise DataError(f"predictions: {len(faults)} fault(s)", faults)
    return found


def _wrong(prediction: Mapping[str, Any]) -> str:
    """Return what of a prediction is of a type that nothing can be scored by; empty for none."""
    if not isinstance(prediction.get("text", ""), str):
        return f"text {prediction['text']!r}; give a text, or leave it out"
    segments = prediction.get("segments", ())
    if isinstance(segments, str | Mapping) or not isinstance(segments, Sequence):
        return f"segments {segments!r}; give a list, empty where nothing was found"
    labels = [item.get("label", "") for item in segments if isinstance(item, Mapping)]
    unnamed = [label for label in labels if not isinstance(label, str)]
    return f"label {unnamed[0]!r} of a segment; give a text" if unnamed else ""


def _detection(
    found: Mapping[str, Mapping[str, Any]], samples: Sequence[Sample]
) -> tuple[dict[str, TemporalPrecision], int]:
    """Return mean average precision by protocol, and of how many videos."""
    if not any("segments" in prediction for prediction in found.values()):
        return {}, 0
    timed = [sample for sample in samples if sample.segments is not None]
    _need(found, [sample.identifier for sample in timed], "segments")
    proposed = {
        sample.identifier: [_plain(item) for item in found[sample.identifier]["segments"]]
        for sample in timed
    }
    real = {
        sample.identifier: [
            {"label": segment.label, "segment": [segment.start, segment.end]}
            for segment in sample.segments or ()
        ]
        for sample in timed
    }
    scores = {
        name: temporal_average_precision(proposed, real, thresholds)
        for name, thresholds in THRESHOLDS.items()
    }
    return scores, len(timed)


def _plain(item: Any) -> Any:
    """Return a predicted segment in the ActivityNet form; what is unsound the metric names."""
    if isinstance(item, Mapping) and {"start", "end"} <= set(item):
        return {**item, "segment": [item["start"], item["end"]]}
    return item


def _told(found: Mapping[str, Mapping[str, Any]], samples: Sequence[Sample], what: str) -> bool:
    """Whether the texts of these samples were predicted: all of them, or none."""
    names = [question.identifier for question in split_questions(samples)]
    if not any("text" in found.get(name, {}) for name in names):
        return False
    _need(found, names, "text", what)
    return True


def _need(
    found: Mapping[str, Mapping[str, Any]], names: Sequence[str], key: str, what: str = ""
) -> None:
    missing = [name for name in names if key not in found.get(name, {})]
    if missing:
        raise DataError(
            f"predictions: {len(missing)} of {len(names)} without {key!r}"
            f"{f' ({what})' if what else ''}; predict each, or none",
            [repr(name) for name in missing],
        )
