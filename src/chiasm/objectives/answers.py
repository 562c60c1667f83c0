"""Cross-entropy of answers out of a closed set."""

from __future__ import annotations

from torch import Tensor, nn

from chiasm.core.batch import IGNORE, Batch, VideoBatch
from chiasm.core.errors import InputError
from chiasm.core.outputs import Outputs

ANSWERS = "answers"
"""Name of the scores among a model's outputs, and of the term."""


class Answers:
    """Term `answers`: cross-entropy of each question that has a known answer, in nats.

    Args:
        label_smoothing: Share of the answer's probability spread over the whole set.
    """

    terms: tuple[str, ...] = (ANSWERS,)

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def count(self, batch: Batch) -> dict[str, float]:
        """Return the number of answered questions."""
        return {ANSWERS: float((_videos(batch).answers != IGNORE).sum())}

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy summed over answered questions.

        Raises:
            InputError: The model scores no answers, or of other questions.
        """
        truth = _videos(batch).answers
        scores = outputs.named.get(ANSWERS)
        if scores is None or len(scores) != len(truth):
            found = sorted(outputs.named) if scores is None else tuple(scores.shape)
            raise InputError(
                f"scores of answers for {len(truth)} questions are needed; found {found}. Give the "
                "model a head of answers, or leave `answers` out of the objective"
            )
        loss = nn.functional.cross_entropy(
            scores.float(),
            truth,
            ignore_index=IGNORE,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        return {ANSWERS: loss}


def _videos(batch: Batch) -> VideoBatch:
    if batch.videos is None:
        raise InputError("the batch has no videos; collate with VideoCollator")
    return batch.videos
