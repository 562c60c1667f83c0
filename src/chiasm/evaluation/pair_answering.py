"""A model of pairs as something that answers questions."""

from __future__ import annotations

from typing import Any

from chiasm.evaluation.answering import GreedyAnswerer, describe_host
from chiasm.models.occlusion import Occlusion


class PairAnswerer(GreedyAnswerer[Occlusion]):
    """Answers samples with pairs in batches, greedily."""

    def describe(self) -> dict[str, Any]:
        """Return what shaped the answers."""
        return {
            **describe_host(self.model.host, self.model.collator, self.name),
            "generation": {"max_new_tokens": self.max_new_tokens, "temperature": 0.0},
        }
