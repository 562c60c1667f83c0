"""The suites: which metrics a kind of data is scored with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from chiasm.metrics import bleu, cider_d
from chiasm.metrics.answers import exact_match_scores, vqa_accuracy_scores
from chiasm.metrics.captions import rouge_l_scores
from chiasm.metrics.meteor import meteor_approximate_scores
from chiasm.metrics.normalisation import normalise_answer, normalise_vqa, tokenise_caption

ItemScores = Callable[[Sequence[str], Sequence[Sequence[str]]], list[float]]
CorpusScore = Callable[[Sequence[str], Sequence[Sequence[str]]], float]


@dataclass(frozen=True)
class Suite:
    """How answers are scored.

    Attributes:
        item_metrics: By name, metrics with one score an item; the first decides `correct` and is
            given with intervals and the majority baseline.
        normalisation: The rule that makes texts comparable, in words.
        corpus_metrics: By name, metrics that only a corpus has; given without intervals.
        prepare: Applied to hypotheses and references before any metric.
        normalise: Brings answers with one meaning together, for the majority baseline; None for
            free text, which has no majority.
        allowed: The answers there are, normalised; others are counted as `other_answers`. Empty
            for open questions.
    """

    item_metrics: Mapping[str, ItemScores]
    normalisation: str
    corpus_metrics: Mapping[str, CorpusScore] = field(default_factory=dict)
    prepare: Callable[[str], str] = str
    normalise: Callable[[str], str] | None = None
    allowed: tuple[str, ...] = ()

    @property
    def primary(self) -> str:
        """Name of the first item metric."""
        return next(iter(self.item_metrics))


def _bleu(order: int) -> CorpusScore:
    return lambda hypotheses, references: bleu(hypotheses, references, order)[order - 1]


CLOSED = "lower case, without punctuation and the articles a, an, the"

ANSWERS, CAPTIONS = "answers", "captions"
"""Suites of short answers, and of descriptions."""

SUITES: dict[str, Suite] = {
    ANSWERS: Suite(
        item_metrics={"exact_match": exact_match_scores},
        normalisation=CLOSED,
        normalise=normalise_answer,
    ),
    "true_false": Suite(
        item_metrics={"exact_match": exact_match_scores},
        normalisation=CLOSED,
        normalise=normalise_answer,
        allowed=("true", "false"),
    ),
    "vqa": Suite(
        item_metrics={"vqa_accuracy": vqa_accuracy_scores, "exact_match": exact_match_scores},
        normalisation="that of the VQA v2 evaluation",
        normalise=normalise_vqa,
    ),
    CAPTIONS: Suite(
        item_metrics={
            "rouge_l": rouge_l_scores,
            "meteor_approximate": meteor_approximate_scores,
        },
        normalisation="lower-cased words split at white space, punctuation dropped",
        corpus_metrics={
            "bleu_1": _bleu(1),
            "bleu_2": _bleu(2),
            "bleu_3": _bleu(3),
            "bleu_4": _bleu(4),
            "cider_d": cider_d,
        },
        prepare=tokenise_caption,
    ),
}
"""Name -> suite."""
