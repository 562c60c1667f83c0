"""Interventions: accuracy with the gate forced, the extra eyes shuffled, and of a control run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from chiasm.evaluation.bootstrap import Bootstrap, Interval
from chiasm.evaluation.gate_statistics import GateSummary
from chiasm.evaluation.protocols import Answerer, Force, GatedModel
from chiasm.evaluation.questions import Question
from chiasm.evaluation.runner import answer_batches
from chiasm.metrics.answers import exact_match_scores

LEARNED, MEAN, SHUFFLED, CONTROL = "learned", "mean gate", "shuffled", "control"
"""Names of settings, beside `NAME only` for each stream."""

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


class Measure:
    """Accuracy of the questions under one setting after another.

    Args:
        model: The model intervened on.
        questions: The questions, at least one.
        batch_size: Questions a batch.
        bootstrap: How intervals are drawn.
        progress: Called after each batch.
    """

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
        """Return the setting in which the gate is forced, or as learned for None."""
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
        """Return the setting in which another run answers."""
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


def measure_settings(
    measure: Measure, gate: GateSummary | None, control: Answerer | None, notes: list[str]
) -> list[Setting]:
    """Measure all settings, `learned` first; what is left out is added to `notes`."""
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
        # Divided by their sum: in half precision shares do not sum to 1 exactly.
        total = sum(gate.weights[name].mean for name in streams)
        mean = {name: gate.weights[name].mean / total for name in streams}
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
