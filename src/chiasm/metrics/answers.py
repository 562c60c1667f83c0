"""Metrics of short answers. Each has a `_scores` form, one number an item, for intervals."""

from __future__ import annotations

from collections.abc import Sequence

from chiasm.core.errors import InputError
from chiasm.metrics.normalisation import normalise_answer, normalise_vqa
from chiasm.metrics.pairs import check_texts


def exact_match(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return the share of answers in [0, 1] that equal one of their references.

    Both sides are normalised by `chiasm.metrics.normalisation.normalise_answer`: lower case,
    without punctuation and articles.

    Raises:
        InputError: The lists do not pair up or are empty; the message names the item.
    """
    scores = exact_match_scores(hypotheses, references)
    return sum(scores) / len(scores)


def exact_match_scores(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> list[float]:
    """Return 1.0 or 0.0 for each answer; see `exact_match`."""
    check_texts("exact_match", hypotheses, references)
    return [
        float(normalise_answer(hypothesis) in {normalise_answer(text) for text in accepted})
        for hypothesis, accepted in zip(hypotheses, references, strict=True)
    ]


def vqa_accuracy(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return the VQA v2 accuracy in [0, 1] (Antol et al. 2015; Goyal et al. 2017).

    For each answer, leave one annotator out in turn, score min(matches among the others / 3, 1),
    and average over the annotators left out. With the usual ten annotators, four matches give 1,
    three give 0.9, two give 0.6, one gives 0.3. Both sides are normalised by
    `chiasm.metrics.normalisation.normalise_vqa`; the published script normalises the references
    only where annotators differ, which changes nothing for its own, already normalised files.

    Raises:
        InputError: The lists do not pair up, or an item has fewer than two references, for which
            leaving one out leaves nothing.
    """
    scores = vqa_accuracy_scores(hypotheses, references)
    return sum(scores) / len(scores)


def vqa_accuracy_scores(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> list[float]:
    """Return the VQA v2 accuracy of each answer; see `vqa_accuracy`."""
    check_texts("vqa_accuracy", hypotheses, references)
    return [
        _leave_one_out(index, hypothesis, accepted)
        for index, (hypothesis, accepted) in enumerate(zip(hypotheses, references, strict=True))
    ]


def _leave_one_out(index: int, hypothesis: str, accepted: Sequence[str]) -> float:
    if len(accepted) < 2:
        raise InputError(
            f"vqa_accuracy: item {index}: {len(accepted)} reference; leaving one annotator out "
            "needs at least 2 (VQA v2 has 10). Use exact_match for one reference"
        )
    answer = normalise_vqa(hypothesis)
    matches = [normalise_vqa(text) == answer for text in accepted]
    total = sum(matches)
    return sum(min((total - match) / 3, 1.0) for match in matches) / len(matches)


def anls(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], threshold: float = 0.5
) -> float:
    """Return the average normalised Levenshtein similarity in [0, 1] (Biten et al. 2019, eq. 1).

    An item scores the best over its references of 1 - NL where NL < `threshold`, else 0. NL is the
    edit distance over the longer length, of lower-cased texts with single spaces.

    Args:
        hypotheses: One answer an item.
        references: Accepted answers of each item.
        threshold: Normalised distance in (0, 1] from which an answer counts as wrong.

    Raises:
        InputError: The lists do not pair up, or the threshold is out of range.
    """
    scores = anls_scores(hypotheses, references, threshold)
    return sum(scores) / len(scores)


def anls_scores(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], threshold: float = 0.5
) -> list[float]:
    """Return the similarity of each answer; see `anls`."""
    check_texts("anls", hypotheses, references)
    if not 0 < threshold <= 1:
        raise InputError(f"anls: threshold {threshold}; allowed: above 0, at most 1 (usual: 0.5)")
    return [
        max(_similarity(hypothesis, text, threshold) for text in accepted)
        for hypothesis, accepted in zip(hypotheses, references, strict=True)
    ]


def _similarity(left: str, right: str, threshold: float) -> float:
    left, right = " ".join(left.lower().split()), " ".join(right.lower().split())
    if left == right:
        return 1.0
    distance = _edit_distance(left, right) / max(len(left), len(right))
    return 1.0 - distance if distance < threshold else 0.0


def _edit_distance(left: str, right: str) -> int:
    """Levenshtein distance by the two-row recurrence of Wagner and Fischer (1974)."""
    above = list(range(len(right) + 1))
    for row, letter in enumerate(left, 1):
        current = [row]
        for column, other in enumerate(right, 1):
            substitution = above[column - 1] + (letter != other)
            current.append(min(substitution, above[column] + 1, current[-1] + 1))
        above = current
    return above[-1]
