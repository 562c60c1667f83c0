"""A model of pairs as something that answers questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chiasm.core.samples import Sample
from chiasm.evaluation.answering import MOST_NEW_TOKENS, describe_host
from chiasm.models.occlusion import Occlusion


class PairAnswerer:
    """Answers samples with pairs in batches, greedily; see `evaluation.protocols.Answerer`.

    Args:
        model: The model.
        name: Name or directory of the run, for reports.
        max_new_tokens: Longest answer.
    """

    def __init__(
        self, model: Occlusion, name: str = "", max_new_tokens: int = MOST_NEW_TOKENS
    ) -> None:
        self.model = model
        self.name = name
        self.max_new_tokens = max_new_tokens

    def answers(self, samples: Sequence[Sample]) -> list[str]:
        """Answer the last user turn of each sample."""
        batch = self.model.collator.collate(samples, generation=True)
        batch = batch.to(self.model.host.device)
        return self.model.generate(batch, max_new_tokens=self.max_new_tokens)

    def describe(self) -> dict[str, Any]:
        """Return what shaped the answers."""
        return {
            **describe_host(self.model.host, self.model.collator, self.name),
            "generation": {"max_new_tokens": self.max_new_tokens, "temperature": 0.0},
        }
