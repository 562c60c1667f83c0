"""Honest analysis of several eyes: what the gate says, and what interventions show.

A gate weight alone is not importance: the streams differ in size, and the network behind may
ignore what a gate lets through. So weights stand beside contributions (weight times feature norm),
and beside accuracy measured with the gate forced, with the extra eyes shuffled across images, and
with a control trained on shuffled features.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chiasm.core.errors import InputError
from chiasm.core.samples import Sample
from chiasm.evaluation.bootstrap import Bootstrap
from chiasm.evaluation.gate_statistics import GateSummary, contribution_shares, summarise_gate
from chiasm.evaluation.interventions import Measure, Progress, Setting, measure_settings
from chiasm.evaluation.majority import Majority
from chiasm.evaluation.protocols import HOST, Answerer, GatedModel, GateReading, settings_of
from chiasm.evaluation.provenance import code_commit, fingerprint, installed_versions
from chiasm.evaluation.questions import Question, split_questions
from chiasm.metrics.answers import exact_match_scores
from chiasm.metrics.normalisation import normalise_answer

FEW_SAMPLES = 30
"""Below this many samples the report warns that intervals are too narrow."""


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
    measure = Measure(model, questions, batch_size, bootstrap, progress)
    settings = measure_settings(measure, gate, control, notes)
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
            **settings_of(model),
            "control": None if control is None else settings_of(control)["model"],
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
        weights=np.concatenate([_double(part.weights) for part in parts]),
        contributions=np.concatenate([_double(part.contributions) for part in parts]),
        maps=tuple(_double(cells) for part in parts for cells in part.maps),
        geometries=tuple(geometry for part in parts for geometry in part.geometries),
    )


def _double(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)


def _majority_accuracy(questions: Sequence[Question]) -> float:
    majority = Majority(normalise_answer, questions, "evaluated answers")
    guesses = [majority.answer(question.kind) for question in questions]
    scores = exact_match_scores(guesses, [question.answers for question in questions])
    return sum(scores) / len(scores)
