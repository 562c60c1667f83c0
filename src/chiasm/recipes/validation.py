"""What a run measures on its validation samples, and which number picks the best checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from chiasm.core.samples import Sample
from chiasm.evaluation.answering import ModelAnswerer, longest_answer
from chiasm.evaluation.pair_answering import PairAnswerer
from chiasm.evaluation.protocols import Answerer
from chiasm.evaluation.runner import evaluate
from chiasm.evaluation.suites import SUITES
from chiasm.evaluation.video_language_answering import VideoLanguageAnswerer
from chiasm.models.dual_encoder import DualEncoder
from chiasm.models.occlusion import Occlusion
from chiasm.models.probes import probing
from chiasm.models.video_language import VideoLanguage
from chiasm.objectives.tokens import NextTokens

Writer = DualEncoder | Occlusion | VideoLanguage
"""A model that writes answers."""

Measure = Literal["answers", "true_false", "vqa", "captions", "loss"]
"""A suite of the evaluation, for which the model writes answers, or the loss on given ones."""

LOSS = "loss"
CAPTION_LOSS = "caption_loss"
"""Nats for each word of a video's caption, and for its end."""

LOWER_IS_BETTER = frozenset({LOSS, CAPTION_LOSS})
"""Names of the numbers that should fall."""

MASKS_NUMBER = "mean_iou"
"""The number that picks the best checkpoint of a model that points: that of its best head."""

ANSWER_BATCH = 32


def first_number(measures: Sequence[Measure]) -> str:
    """Return the name of the number that the first measure is known by."""
    return LOSS if measures[0] == LOSS else SUITES[measures[0]].primary


def measure_model(
    model: Writer, samples: Sequence[Sample], measures: Sequence[Measure], batch_size: int
) -> Mapping[str, float]:
    """Measure a model, in this process alone: the trainer calls this on its first process only.

    Args:
        model: The model.
        samples: Samples with truth.
        measures: What to measure.
        batch_size: Samples in one forward pass of the loss.

    Returns:
        Numbers by name: those of the suites, and `loss` in nats per supervised token.
    """
    found: dict[str, float] = {}
    for measure in measures:
        if measure == LOSS:
            found[LOSS] = token_loss(model, samples, batch_size)
            continue
        answerer = _answerer(model, measure)
        report = evaluate(answerer, samples, measure, batch_size=ANSWER_BATCH, divided=False)
        found.update(report.numbers())
    return found


def _answerer(model: Writer, suite: str) -> Answerer:
    longest = longest_answer(suite)
    if isinstance(model, VideoLanguage):
        return VideoLanguageAnswerer(model, max_new_tokens=longest)
    if isinstance(model, Occlusion):
        return PairAnswerer(model, max_new_tokens=longest)
    return ModelAnswerer(model, max_new_tokens=longest)


def token_loss(model: Writer, samples: Sequence[Sample], batch_size: int) -> float:
    """Return the next-token loss over all supervised tokens, in nats per token."""
    objective = NextTokens()
    total = count = 0.0
    with probing(model):
        for start in range(0, len(samples), batch_size):
            batch = model.collator(samples[start : start + batch_size]).to(model.host.device)
            total += float(objective.score(model(batch), batch)["tokens"])
            count += objective.count(batch)["tokens"]
    return total / count
