"""Several objectives as one, each term with its weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from chiasm.core.batch import Batch
from chiasm.core.errors import ConfigError, UnknownNameError
from chiasm.core.outputs import Outputs


class NamedObjective(Protocol):
    """An `Objective` that says beforehand which terms it scores."""

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms."""
        ...

    def count(self, batch: Batch) -> Mapping[str, float]:
        """See `Objective.count`."""
        ...

    def score(self, outputs: Outputs, batch: Batch) -> Mapping[str, Tensor]:
        """See `Objective.score`."""
        ...


class WeightedSum:
    """Merges objectives; scores are multiplied by weights, counts are not.

    A term of weight 0 is still scored, so that it shows in the log, unless all terms of its
    objective weigh 0: then that objective is not run.

    Args:
        objectives: The objectives; no two share a term.
        weights: Weight by term; a term that is left out weighs 1.

    Raises:
        UnknownNameError: A weight names a term that no objective has.
        ConfigError: Two objectives share a term, or a weight is negative.
    """

    def __init__(
        self, objectives: Sequence[NamedObjective], weights: Mapping[str, float] | None = None
    ) -> None:
        self.objectives = tuple(objectives)
        self.terms = tuple(term for objective in self.objectives for term in objective.terms)
        twice = sorted({term for term in self.terms if self.terms.count(term) > 1})
        if twice:
            raise ConfigError(f"two objectives score the same term: {', '.join(twice)}")
        given = dict(weights or {})
        for term, weight in given.items():
            if term not in self.terms:
                raise UnknownNameError("loss term", term, self.terms)
            if weight < 0:
                raise ConfigError(f"loss term {term!r} has the weight {weight}; give 0 or more")
        self.weights = {term: given.get(term, 1.0) for term in self.terms}

    def with_weights(self, weights: Mapping[str, float]) -> WeightedSum:
        """Return the same objectives with some weights changed, as a later stage may ask."""
        return WeightedSum(self.objectives, {**self.weights, **weights})

    def count(self, batch: Batch) -> dict[str, float]:
        """Return the counts of all terms that are scored."""
        return {
            term: count
            for objective in self._active()
            for term, count in objective.count(batch).items()
        }

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted sums of all terms that are scored."""
        return {
            term: self.weights[term] * loss
            for objective in self._active()
            for term, loss in objective.score(outputs, batch).items()
        }

    def _active(self) -> list[NamedObjective]:
        return [
            objective
            for objective in self.objectives
            if any(self.weights[term] > 0 for term in objective.terms)
        ]
