"""How often a dense head is right on cells that show a thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chiasm.core.samples import Sample
from chiasm.models.cell_classifier import CellClassifier
from chiasm.models.probes import probing

BATCH = 64


def cell_accuracy(model: CellClassifier, samples: Sequence[Sample]) -> Mapping[str, float]:
    """Return the accuracy of each attribute over labelled cells that show a thing, and their mean.

    Background cells are left out: they are many and easy, and would hide what the tower misses.

    Args:
        model: The tower with its dense head.
        samples: Samples with dense labels.

    Returns:
        By attribute name (`texture`, ...) a share in [0, 1], and `accuracy`, their mean.
    """
    right: dict[str, int] = {}
    total: dict[str, int] = {}
    device = next(model.parameters()).device
    with probing(model):
        for start in range(0, len(samples), BATCH):
            batch = model.collator(samples[start : start + BATCH]).to(device)
            for name, scores in model(batch).named.items():
                labels = batch.targets[name]
                shown = labels > 0
                attribute = name.removeprefix("cells.")
                hits = (scores.argmax(-1) == labels) & shown
                right[attribute] = right.get(attribute, 0) + int(hits.sum())
                total[attribute] = total.get(attribute, 0) + int(shown.sum())
    found = {name: right[name] / max(1, total[name]) for name in right}
    return {**found, "accuracy": sum(found.values()) / max(1, len(found))}
