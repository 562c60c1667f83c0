"""Next-token cross-entropy over supervised text."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from chiasm.core.batch import Batch
from chiasm.core.config import Config
from chiasm.core.outputs import Outputs


class NextTokensConfig(Config):
    """Next-token cross-entropy.

    Attributes:
        label_smoothing: Share of the target's probability spread over the whole vocabulary.
    """

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)

    def build(self) -> NextTokens:
        """Build the objective."""
        return NextTokens(label_smoothing=self.label_smoothing)


class NextTokens:
    """Term `tokens`: cross-entropy of each supervised token, in nats.

    Args:
        label_smoothing: As in the configuration.
    """

    terms = ("tokens",)

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def count(self, batch: Batch) -> dict[str, float]:
        """Return the number of supervised tokens."""
        return {"tokens": float(batch.supervised_tokens)}

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy summed over supervised tokens."""
        if outputs.logits is None or outputs.targets is None:
            return {"tokens": torch.zeros((), device=batch.input_ids.device)}
        return {
            "tokens": nn.functional.cross_entropy(
                outputs.logits.float(),
                outputs.targets,
                reduction="sum",
                label_smoothing=self.label_smoothing,
            )
        }
