"""Runs a model over questions and scores what it says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from chiasm.core.config import lookup
from chiasm.core.errors import InputError
from chiasm.core.samples import Sample
from chiasm.evaluation.bootstrap import Bootstrap
from chiasm.evaluation.majority import Majority
from chiasm.evaluation.protocols import Answerer, settings_of
from chiasm.evaluation.provenance import code_commit, fingerprint, installed_versions
from chiasm.evaluation.questions import Question, split_questions
from chiasm.evaluation.report import Baseline, EvaluationReport, GroupResult, Prediction
from chiasm.evaluation.suites import SUITES, Suite

MINIMUM_FOR_CORPUS = 2
"""Corpus metrics with document frequencies need at least two items."""

Progress = Callable[[int], None]
"""Called with the number of questions just answered."""


def evaluate(
    model: Answerer,
    samples: Iterable[Sample],
    suite: str,
    *,
    batch_size: int = 16,
    train_samples: Iterable[Sample] | None = None,
    keep_history: bool = False,
    bootstrap: Bootstrap | None = None,
    data: str = "",
    progress: Progress | None = None,
    divided: bool = True,
) -> EvaluationReport:
    """Answer every question of the samples and score the answers.

    Under several processes (`accelerate launch`, `torchrun`) each answers every n-th question and
    all get the whole report.

    Args:
        model: Answers questions.
        samples: Samples with truth; conversations are cut into single questions.
        suite: Name in `SUITES`.
        batch_size: Questions a batch.
        train_samples: The training data, for the majority baseline; without it the majority is
            counted on the evaluated answers, which flatters the baseline, and the report says so.
        keep_history: Ask later turns of a conversation with the true earlier ones before them.
        bootstrap: How intervals are drawn.
        data: Name of the data, for the report.
        progress: Called after each batch.
        divided: Whether several processes share the work. False where only one of them evaluates,
            as inside a training run: sharing would wait for the others for ever.

    Raises:
        UnknownNameError: The suite is not known.
        DataError: A sample has no question or no fitting truth.
        InputError: There is no question, or the model gave another number of answers.
    """
    rules = lookup(SUITES, suite, "suite")
    bootstrap = bootstrap or Bootstrap()
    questions = split_questions(samples, keep_history=keep_history)
    if not questions:
        raise InputError(f"evaluation of {data or 'the data'}: no samples; give at least one")
    majority = _majority(
        rules, questions, None if train_samples is None else split_questions(train_samples)
    )
    texts = (
        answer_all(model, questions, batch_size, progress)
        if divided
        else answer_batches(model.answers, questions, batch_size, progress)
    )
    predictions = _score(rules, questions, texts)
    context = {
        **settings_of(model),
        "data": data,
        "questions": len(questions),
        "samples": len({question.source for question in questions}),
        "identifiers_sha256": fingerprint(question.identifier for question in questions),
        "history": "true earlier turns" if keep_history else "none: each question by itself",
        "batch_size": batch_size,
        "processes": PartialState().num_processes if divided else 1,
        "normalisation": rules.normalisation,
        "intervals": bootstrap.method,
        "seed": bootstrap.seed,
        "versions": installed_versions(),
        "commit": code_commit(),
    }
    summarise = _Summary(rules, questions, predictions, majority, bootstrap)
    return EvaluationReport(
        suite=suite,
        overall=summarise.group("all", range(len(questions))),
        by_group=summarise.groups(lambda question: question.group),
        by_kind=summarise.groups(lambda question: question.kind),
        predictions=predictions,
        context=context,
    )


def answer_all(
    model: Answerer,
    questions: Sequence[Question],
    batch_size: int,
    progress: Progress | None = None,
) -> list[str]:
    """Return one answer a question, in order, with the work divided over all processes.

    Raises:
        InputError: The batch size is below 1, or the model gave another number of answers.
    """
    state = PartialState()
    mine = list(range(state.process_index, len(questions), state.num_processes))
    texts = answer_batches(
        model.answers, [questions[index] for index in mine], batch_size, progress
    )
    pairs = gather_object(list(zip(mine, texts, strict=True)))
    by_index = dict(pairs)
    return [by_index[index] for index in range(len(questions))]


def answer_batches(
    ask: Callable[[Sequence[Sample]], list[str]],
    questions: Sequence[Question],
    batch_size: int,
    progress: Progress | None = None,
) -> list[str]:
    """Return one answer a question, in order, in this process.

    Raises:
        InputError: As for `answer_all`.
    """
    if batch_size < 1:
        raise InputError(f"batch size {batch_size}; allowed: 1 or more")
    texts: list[str] = []
    for start in range(0, len(questions), batch_size):
        batch = questions[start : start + batch_size]
        answers = ask([question.sample for question in batch])
        if len(answers) != len(batch):
            raise InputError(
                f"the model gave {len(answers)} answers to {len(batch)} questions (from "
                f"{batch[0].identifier!r}); it must give one for each, in order"
            )
        texts += answers
        if progress is not None:
            progress(len(batch))
    return texts


def _score(
    suite: Suite, questions: Sequence[Question], texts: Sequence[str]
) -> tuple[Prediction, ...]:
    hypotheses = [suite.prepare(text) for text in texts]
    references = [[suite.prepare(text) for text in question.answers] for question in questions]
    scores = {name: metric(hypotheses, references) for name, metric in suite.item_metrics.items()}
    return tuple(
        Prediction(
            identifier=question.identifier,
            text=text,
            answers=question.answers,
            group=question.group,
            kind=question.kind,
            scores={name: values[index] for name, values in scores.items()},
            correct=scores[suite.primary][index] == 1.0 if suite.normalise else None,
        )
        for index, (question, text) in enumerate(zip(questions, texts, strict=True))
    )


def _majority(
    suite: Suite, questions: Sequence[Question], training: Sequence[Question] | None
) -> Majority | None:
    if suite.normalise is None:
        return None
    if training is None:
        return Majority(suite.normalise, questions, "evaluated answers")
    if not training:
        raise InputError(
            "majority baseline: the training data is empty; give data, or leave it out to count "
            "the majority on the evaluated answers"
        )
    return Majority(suite.normalise, training, "training answers")


class _Summary:
    """Numbers of groups of questions."""

    def __init__(
        self,
        suite: Suite,
        questions: Sequence[Question],
        predictions: Sequence[Prediction],
        majority: Majority | None,
        bootstrap: Bootstrap,
    ) -> None:
        self.suite = suite
        self.questions = questions
        self.predictions = predictions
        self.majority = majority
        self.bootstrap = bootstrap

    def groups(self, key: Callable[[Question], str]) -> tuple[GroupResult, ...]:
        members: dict[str, list[int]] = defaultdict(list)
        for index, question in enumerate(self.questions):
            members[key(question)].append(index)
        return tuple(self.group(name, members[name]) for name in sorted(members))

    def group(self, name: str, members: Sequence[int]) -> GroupResult:
        predictions = [self.predictions[index] for index in members]
        clusters = [self.questions[index].source for index in members]
        return GroupResult(
            name=name,
            count=len(members),
            scores={
                metric: self.bootstrap.mean([p.scores[metric] for p in predictions], clusters)
                for metric in self.suite.item_metrics
            },
            corpus=self._corpus(predictions),
            baseline=self._baseline([self.questions[index] for index in members]),
            other_answers=self._others(predictions),
        )

    def _corpus(self, predictions: Sequence[Prediction]) -> Mapping[str, float | None]:
        if len(predictions) < MINIMUM_FOR_CORPUS:
            return dict.fromkeys(self.suite.corpus_metrics)
        hypotheses = [self.suite.prepare(item.text) for item in predictions]
        references = [[self.suite.prepare(text) for text in item.answers] for item in predictions]
        return {
            name: metric(hypotheses, references)
            for name, metric in self.suite.corpus_metrics.items()
        }

    def _baseline(self, questions: Sequence[Question]) -> Baseline | None:
        if self.majority is None:
            return None
        metric = self.suite.item_metrics[self.suite.primary]
        guesses = [self.majority.answer(question.kind) for question in questions]
        scores = metric(guesses, [list(question.answers) for question in questions])
        kinds = sorted({question.kind for question in questions})
        return Baseline(
            score=sum(scores) / len(scores),
            answers={kind: self.majority.answer(kind) for kind in kinds},
            source=self.majority.source,
            unseen=sum(question.kind not in self.majority.by_kind for question in questions),
        )

    def _others(self, predictions: Sequence[Prediction]) -> int | None:
        if not self.suite.allowed or self.suite.normalise is None:
            return None
        normalise = self.suite.normalise
        return sum(normalise(item.text) not in self.suite.allowed for item in predictions)


def numbers_of(
    model: Answerer, samples: Sequence[Sample], suite: str, **options: Any
) -> Callable[[], Mapping[str, float]]:
    """Return a function without arguments that evaluates and gives plain numbers, for a trainer.

    Args:
        model: Answers questions.
        samples: Samples with truth.
        suite: Name in `SUITES`.
        **options: Passed to `evaluate`.
    """
    return lambda: evaluate(model, samples, suite, **options).numbers()
