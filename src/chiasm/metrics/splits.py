"""Panoptic narrative grounding: average recall of all phrases and of each kind of phrase."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from chiasm.core.errors import InputError

ScoredPhrase = tuple[float, bool | None, bool]
"""(intersection over union in [0, 1], whether it means things, whether it is plural)."""

SPLITS: dict[str, Callable[[ScoredPhrase], bool]] = {
    "all": lambda phrase: True,
    "things": lambda phrase: phrase[2] or phrase[1] is True,
    "stuff": lambda phrase: not phrase[2] and phrase[1] is False,
    "singular": lambda phrase: not phrase[2],
    "plural": lambda phrase: phrase[2],
}
"""Split to whether a phrase belongs to it. Plural phrases count as things (Gonzalez et al., 2021,
arXiv:2109.04988, and their script); a singular phrase of which nobody said it is in neither."""


def average_recall_by_split(phrases: Iterable[ScoredPhrase]) -> dict[str, float]:
    """Return the average recall of each split that has a phrase.

    It is the area under the share of phrases whose IoU reaches a threshold, over thresholds from 0
    to 1, which equals the mean IoU; see `chiasm.metrics.average_recall`.

    Args:
        phrases: For each phrase its IoU and what it means.

    Returns:
        By name of `SPLITS` a number in [0, 1]; a split without phrases is left out.

    Raises:
        InputError: There is no phrase, or an IoU is not in [0, 1].
    """
    listed = list(phrases)
    if not listed:
        raise InputError("average_recall_by_split: no phrases; give at least one")
    for index, (overlap, _, _) in enumerate(listed):
        if not 0 <= overlap <= 1:
            raise InputError(
                f"average_recall_by_split: phrase {index} has the IoU {overlap}; allowed: 0 to 1"
            )
    members = {
        name: [phrase[0] for phrase in listed if belongs(phrase)]
        for name, belongs in SPLITS.items()
    }
    return {name: float(np.mean(found)) for name, found in members.items() if found}
