"""Honest analysis of several eyes: what the gate says, and what interventions show.

A gate weight alone is not importance: the streams differ in size, and the network behind may
ignore what a gate lets through. So weights stand beside contributions (weight times feature norm),
and beside accuracy measured with the gate forced, with the extra eyes shuffled across images, and
with a control trained on shuffled features.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from chiasm.core.errors import InputError
from chiasm.core.samples import Sample
from chiasm.evaluation.bootstrap import Bootstrap, Interval
from chiasm.evaluation.gate_statistics import GateSummary, contribution_shares, summarise_gate
from chiasm.evaluation.majority import Majority
from chiasm.evaluation.protocols import HOST, Answerer, Force, GatedModel, GateReading
from chiasm.evaluation.provenance import code_commit, fingerprint, installed_versions
from chiasm.evaluation.questions import Question, split_questions
from chiasm.evaluation.runner import answer_batches
from chiasm.metrics.answers import exact_match_scores
from chiasm.metrics.normalisation import normalise_answer

LEARNED, MEAN, SHUFFLED, CONTROL = "learned", "mean gate", "shuffled", "control"
"""Names of settings, beside `NAME only` for each stream."""

FEW_SAMPLES = 30
"""Below this many samples the report warns that intervals are too narrow."""

Progress = Callable[[str, int], None]
"""Called with the name of the setting and the number of questions just answered."""


@dataclass(frozen=True)
class Setting:
    """Accuracy under one intervention.

    Attributes:
        name: `learned`, `host only`, `NAME only`, `mean gate`, `shuffled` or `control`.
        meaning: What was done, in words.
        shares: Shares the gate was forced to, by stream; None where it was not forced.
        accuracy: Exact match over all questions.
        difference: This setting minus `learned`, question by question; None for `learned`.
        by_group: Accuracy by group of questions.
        answers: What was said, one text a question.
        correct: Whether it was right, one a question.
    """

    name: str
    meaning: str
    shares: Mapping[str, float] | None
    accuracy: Interval
    difference: Interval | None
    by_group: Mapping[str, Interval]
    answers: tuple[str, ...]
    correct: tuple[bool, ...]


@dataclass(frozen=True)
class GateAnalysis:
    """Everything the analysis found.

    Attributes:
        streams: Names of the streams, the host first.
        questions: The questions, in order.
        settings: Accuracy under each intervention, `learned` first.
        majority: Accuracy of always saying the most frequent answer of each kind, counted on the
            analysed answers.
        gate: What the gate did; None for a fusion without gate.
        reading: The gate of each image; None for a fusion without gate.
        image_samples: For each image of the reading, the identifier of its sample.
        image_groups: For each image of the reading, the group of its sample.
        notes: What was left out, and why.
        context: What shaped the numbers.
    """

    streams: tuple[str, ...]
    questions: tuple[Question, ...]
    settings: tuple[Setting, ...]
    majority: float
    gate: GateSummary | None
    reading: GateReading | None
    image_samples: tuple[str, ...]
    image_groups: tuple[str, ...]
    notes: tuple[str, ...]
    context: Mapping[str, Any]

    def setting(self, name: str) -> Setting | None:
        """Return the setting of a name, or None where it was not measured."""
        return next((setting for setting in self.settings if setting.name == name), None)

    def summary_json(self) -> dict[str, Any]:
        """Return the numbers over all questions and images, as plain values."""
        return {
            "streams": list(self.streams),
            "settings": [
                {
                    key: value
                    for key, value in asdict(setting).items()
                    if key not in ("answers", "correct")
                }
                for setting in self.settings
            ],
            "majority_baseline": self.majority,
            "gate": None if self.gate is None else asdict(self.gate),
            "notes": list(self.notes),
            "context": dict(self.context),
        }

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values: the summary, every image and every question."""
        return {
            **self.summary_json(),
            "images": self._images(),
            "questions": [
                {
                    "id": question.identifier,
                    "question": question.text,
                    "answers": list(question.answers),
                    "group": question.group,
                    "kind": question.kind,
                    "said": {setting.name: setting.answers[at] for setting in self.settings},
                    "correct": {setting.name: setting.correct[at] for setting in self.settings},
                }
                for at, question in enumerate(self.questions)
            ],
        }

    def _images(self) -> list[dict[str, Any]]:
        if self.reading is None:
            return []
        shares = contribution_shares(self.reading.contributions)
        rows = []
        for at, (identifier, group) in enumerate(
            zip(self.image_samples, self.image_groups, strict=True)
        ):
            rows.append(
                {
                    "sample": identifier,
                    "group": group,
                    "weights": self._named(self.reading.weights[at]),
                    "contributions": self._named(self.reading.contributions[at]),
                    "contribution_shares": self._named(shares[at]),
                    # Four decimals: a share needs no more, and maps are most of the file.
                    "map": {
                        name: np.round(self.reading.maps[at][..., place], 4).tolist()
                        for place, name in enumerate(self.streams)
                    },
                }
            )
        return rows

    def _named(self, row: Iterable[float]) -> dict[str, float]:
        return {name: float(value) for name, value in zip(self.streams, row, strict=True)}


def analyse(
    model: GatedModel,
    samples: Sequence[Sample],
    *,
    control: Answerer | None = None,
    batch_size: int = 16,
    bootstrap: Bootstrap | None = None,
    data: str = "",
    progress: Progress | None = None,
) -> GateAnalysis:
    """Look into a model with several eyes and intervene on them.

    Args:
        model: The model.
        samples: Samples with images and truth; conversations are cut into single questions.
        control: The same model trained with the extra encoders' features shuffled across images,
            so that it has the parameters but not the sight.
        batch_size: Questions a batch, at least 2: shuffling exchanges images within a batch.
        bootstrap: How intervals are drawn.
        data: Name of the data, for the report.
        progress: Called after each batch.

    Raises:
        InputError: There are no samples or no images, a batch size below 2, or the model has no
            extra encoder.
        DataError: A sample has no question or no fitting truth.
    """
    _check(model, samples, batch_size)
    bootstrap = bootstrap or Bootstrap()
    questions = split_questions(samples)
    notes: list[str] = []
    pictured = [sample for sample in samples if sample.images]
    if len(samples) < FEW_SAMPLES:
        notes.append(
            f"Only {len(samples)} sample(s): intervals resampled from so few are too narrow to "
            f"rest a claim on; take {FEW_SAMPLES} or more."
        )
    if len(pictured) < len(samples):
        notes.append(f"{len(samples) - len(pictured)} of {len(samples)} samples have no image.")
    reading = _read_gates(model, pictured, batch_size) if model.gated else None
    image_samples = tuple(sample.identifier for sample in pictured for _ in sample.images)
    image_groups = tuple(sample.group for sample in pictured for _ in sample.images)
    gate = None
    if reading is not None:
        if len(reading.weights) != len(image_samples):
            raise InputError(
                f"the model read {len(reading.weights)} gates of {len(image_samples)} images; it "
                "must give one for each image, in order"
            )
        gate = summarise_gate(reading, model.streams, image_groups, image_samples, bootstrap)
    else:
        notes.append("This fusion has no gate: there are no weights to show, only interventions.")
    measure = _Measure(model, questions, batch_size, bootstrap, progress)
    settings = _measure_settings(measure, gate, control, notes)
    return GateAnalysis(
        streams=model.streams,
        questions=tuple(questions),
        settings=tuple(settings),
        majority=_majority_accuracy(questions),
        gate=gate,
        reading=reading,
        image_samples=image_samples if reading is not None else (),
        image_groups=image_groups if reading is not None else (),
        notes=tuple(notes),
        context={
            **asdict(model.describe()),
            "control": None if control is None else control.describe().model,
            "data": data,
            "questions": len(questions),
            "samples": len(samples),
            "images": len(image_samples),
            "identifiers_sha256": fingerprint(question.identifier for question in questions),
            "batch_size": batch_size,
            "accuracy": "exact match after lower case, without punctuation and articles",
            "intervals": bootstrap.method,
            "seed": bootstrap.seed,
            "versions": installed_versions(),
            "commit": code_commit(),
        },
    )


def _check(model: GatedModel, samples: Sequence[Sample], batch_size: int) -> None:
    if not samples:
        raise InputError("analysis: no samples; give data with at least one")
    if not any(sample.images for sample in samples):
        raise InputError(
            f"analysis: none of {len(samples)} samples has an image, so no eye sees anything; "
            "give data with images"
        )
    if batch_size < 2:
        raise InputError(
            f"analysis: batch size {batch_size}; allowed: 2 or more, because the shuffled setting "
            "exchanges images within a batch"
        )
    if len(model.streams) < 2 or model.streams[0] != HOST:
        raise InputError(
            f"analysis: streams {', '.join(model.streams) or 'none'}; it needs {HOST!r} first and "
            "at least one extra encoder. A model without extra encoders has nothing to analyse"
        )


def _read_gates(model: GatedModel, samples: Sequence[Sample], batch_size: int) -> GateReading:
    parts = [
        model.gates(samples[start : start + batch_size])
        for start in range(0, len(samples), batch_size)
    ]
    return GateReading(
        weights=np.concatenate([part.weights for part in parts]),
        contributions=np.concatenate([part.contributions for part in parts]),
        maps=tuple(cells for part in parts for cells in part.maps),
        geometries=tuple(geometry for part in parts for geometry in part.geometries),
    )


class _Measure:
    """Accuracy of the questions under one setting after another."""

    def __init__(
        self,
        model: GatedModel,
        questions: Sequence[Question],
        batch_size: int,
        bootstrap: Bootstrap,
        progress: Progress | None,
    ) -> None:
        self.model = model
        self.questions = questions
        self.batch_size = batch_size
        self.bootstrap = bootstrap
        self.progress = progress
        self.learned: Setting | None = None

    def forced(
        self, name: str, meaning: str, force: Force, shares: Mapping[str, float] | None
    ) -> Setting:
        texts = answer_batches(
            lambda samples: self.model.answers(samples, force=force),
            self.questions,
            self.batch_size,
            self._tell(name),
        )
        return self._setting(name, meaning, shares, texts)

    def shuffled(self, meaning: str) -> tuple[Setting, int]:
        """Return the setting, and how many questions kept features of their own sample."""
        # First questions of all samples, then second ones: neighbours come from other samples.
        order = sorted(range(len(self.questions)), key=lambda at: self.questions[at].turn)
        batches = _batches_of_two_or_more(order, self.batch_size)
        texts = [""] * len(order)
        kept = 0
        for batch in batches:
            sources = [self.questions[at].source for at in batch]
            kept += sum(
                own == donor for own, donor in zip(sources, [*sources[1:], sources[0]], strict=True)
            )
            found = answer_batches(
                lambda samples: self.model.answers(samples, shuffle=True),
                [self.questions[at] for at in batch],
                len(batch),
                self._tell(SHUFFLED),
            )
            for at, text in zip(batch, found, strict=True):
                texts[at] = text
        return self._setting(SHUFFLED, meaning, None, texts), kept

    def control(self, meaning: str, control: Answerer) -> Setting:
        texts = answer_batches(
            control.answers, self.questions, self.batch_size, self._tell(CONTROL)
        )
        return self._setting(CONTROL, meaning, None, texts)

    def _tell(self, name: str) -> Callable[[int], None] | None:
        progress = self.progress
        return None if progress is None else lambda count: progress(name, count)

    def _setting(
        self,
        name: str,
        meaning: str,
        shares: Mapping[str, float] | None,
        texts: Sequence[str],
    ) -> Setting:
        scores = exact_match_scores(texts, [question.answers for question in self.questions])
        clusters = [question.source for question in self.questions]
        difference = None
        if self.learned is not None:
            right = [float(correct) for correct in self.learned.correct]
            difference = self.bootstrap.difference(scores, right, clusters)
        by_group: dict[str, list[int]] = defaultdict(list)
        for at, question in enumerate(self.questions):
            by_group[question.group].append(at)
        return Setting(
            name=name,
            meaning=meaning,
            shares=shares,
            accuracy=self.bootstrap.mean(scores, clusters),
            difference=difference,
            by_group={
                group: self.bootstrap.mean(
                    [scores[at] for at in members], [clusters[at] for at in members]
                )
                for group, members in sorted(by_group.items())
            },
            answers=tuple(texts),
            correct=tuple(score == 1.0 for score in scores),
        )


def _batches_of_two_or_more(order: Sequence[int], size: int) -> list[list[int]]:
    batches = [list(order[start : start + size]) for start in range(0, len(order), size)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [[*batches[-2], *batches[-1]]]
    return batches


def _measure_settings(
    measure: _Measure, gate: GateSummary | None, control: Answerer | None, notes: list[str]
) -> list[Setting]:
    streams = measure.model.streams
    extras = " and ".join(streams[1:])
    learned = measure.forced(LEARNED, "The model as trained.", None, None)
    measure.learned = learned
    settings = [learned]
    alone = streams if gate is not None else streams[:1]
    for stream in alone:
        shares = {name: float(name == stream) for name in streams} if gate is not None else None
        meaning = f"The gate gives everything to {stream}."
        if gate is None:
            meaning = f"What the fusion adds to the host's tokens is set to zero; {extras} unseen."
        settings.append(measure.forced(f"{stream} only", meaning, stream, shares))
    if gate is not None:
        mean = {name: gate.weights[name].mean for name in streams}
        settings.append(
            measure.forced(
                MEAN,
                "Every image gets the mean weights: the gate no longer chooses.",
                tuple(mean.values()),
                mean,
            )
        )
    if len({question.source for question in measure.questions}) < 2:
        notes.append("Shuffled: not measured, one sample has no other to exchange features with.")
    else:
        meaning = f"Features of {extras} come from another image."
        setting, kept = measure.shuffled(meaning)
        settings.append(setting)
        if kept:
            notes.append(
                f"Shuffled: {kept} of {len(measure.questions)} questions kept features of their "
                "own sample, because a batch held nothing else."
            )
    if control is not None:
        meaning = f"Another run: same parameters, trained on shuffled features of {extras}."
        settings.append(measure.control(meaning, control))
    else:
        notes.append(
            "No control run was given. Forcing a gate shows what the model relies on, not what "
            "the extra eye brought: only a run trained on shuffled features tells the two apart."
        )
    return settings


def _majority_accuracy(questions: Sequence[Question]) -> float:
    majority = Majority(normalise_answer, questions, "evaluated answers")
    guesses = [majority.answer(question.kind) for question in questions]
    scores = exact_match_scores(guesses, [question.answers for question in questions])
    return sum(scores) / len(scores)
