"""Cross-entropy of dense labels, one an image cell."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from chiasm.core.batch import IGNORE, Batch
from chiasm.core.config import Config
from chiasm.core.errors import InputError
from chiasm.core.outputs import Outputs


class CellsConfig(Config):
    """Dense cross-entropy.

    Attributes:
        attributes: Names of the attributes scored; each is a term `cells.<name>`.
    """

    attributes: tuple[str, ...]

    def build(self) -> Cells:
        """Build the objective."""
        return Cells(self.attributes)


class Cells:
    """Terms `cells.<name>`: cross-entropy of each labelled cell, in nats.

    Targets lie in `Batch.targets["cells.<name>"]`, int64 (I, rows, columns), `IGNORE` where a cell
    has no label or does not exist; scores in `Outputs.named["cells.<name>"]`, float
    (I, rows, columns, classes).

    Args:
        attributes: Names of the attributes scored.
    """

    def __init__(self, attributes: Sequence[str]) -> None:
        self.terms = tuple(f"cells.{name}" for name in attributes)

    def count(self, batch: Batch) -> dict[str, float]:
        """Return, by attribute, the number of labelled cells."""
        return {term: float((self._targets(batch, term) != IGNORE).sum()) for term in self.terms}

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return, by attribute, the cross-entropy summed over labelled cells.

        Raises:
            InputError: Labels or scores are missing or do not have the same cells.
        """
        return {term: self._term(outputs, batch, term) for term in self.terms}

    def _term(self, outputs: Outputs, batch: Batch, term: str) -> Tensor:
        targets = self._targets(batch, term)
        if term not in outputs.named:
            raise InputError(
                f"the model predicts no {term!r}; it predicts {sorted(outputs.named)}. Give its "
                "head this attribute or leave it out of the objective"
            )
        logits = outputs.named[term]
        if logits.shape[:3] != targets.shape:
            raise InputError(
                f"{term!r}: scores for cells {tuple(logits.shape[:3])}, labels for "
                f"{tuple(targets.shape)} (images, rows, columns); label the host's grid"
            )
        return nn.functional.cross_entropy(
            logits.float().flatten(0, 2), targets.flatten(), ignore_index=IGNORE, reduction="sum"
        )

    def _targets(self, batch: Batch, term: str) -> Tensor:
        if term not in batch.targets:
            raise InputError(
                f"the batch has no labels {term!r}; it has {sorted(batch.targets)}. Check the "
                "attribute's name and that the dataset carries it"
            )
        return batch.targets[term]
