"""Cross-entropy of captions."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from chiasm.core.batch import Batch, VideoBatch
from chiasm.core.config import Config
from chiasm.core.errors import InputError
from chiasm.core.outputs import Outputs

TERM = "captions"
LOGITS, TARGETS = "captions.logits", "captions.targets"
"""Names of the scores among a model's outputs, and of what they should predict."""


class CaptionsConfig(Config):
    """Cross-entropy of captions.

    Attributes:
        label_smoothing: Share of the target's probability spread over the whole vocabulary.
    """

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)

    def build(self) -> Captions:
        """Build the objective."""
        return Captions(label_smoothing=self.label_smoothing)


class Captions:
    """Term `captions`: cross-entropy in nats of each token of a caption and of its end.

    Captions are those of `VideoBatch.captions`. Reads `captions.logits`, float (P, V), and
    `captions.targets`, int64 (P,), as `heads.captions.CaptionHead.predict` gives them.

    Args:
        label_smoothing: As in the configuration.
    """

    terms = (TERM,)

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def count(self, batch: Batch) -> dict[str, float]:
        """Return the number of tokens and ends."""
        return {TERM: float(sum(len(one) + 1 for one in _videos(batch).captions))}

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy summed over tokens and ends.

        Raises:
            InputError: The model gives no captions, or not as many tokens as the batch holds.
        """
        count = int(self.count(batch)[TERM])
        if not count:
            return {TERM: torch.zeros((), device=batch.input_ids.device)}
        if LOGITS not in outputs.named:
            raise InputError(
                f"the model gives no captions; it gives {sorted(outputs.named) or 'nothing'}. "
                "Build it with a caption head, or leave the term out of the objective"
            )
        logits, targets = outputs.named[LOGITS], outputs.named[TARGETS]
        if len(logits) != count or len(targets) != count:
            raise InputError(
                f"scores of {len(logits)} tokens for {count} in the batch's captions, ends "
                "included; score each row that has a caption"
            )
        return {
            TERM: nn.functional.cross_entropy(
                logits.float(), targets, reduction="sum", label_smoothing=self.label_smoothing
            )
        }


def _videos(batch: Batch) -> VideoBatch:
    if batch.videos is None:
        raise InputError("the batch has no videos; collate with VideoCollator")
    return batch.videos
