"""Metrics of captions, over n-grams of words split at white space.

Texts are compared as given: apply `chiasm.metrics.normalisation.tokenise_caption` to both sides
first where case and punctuation should not count.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from chiasm.core.errors import InputError
from chiasm.metrics.pairs import check_texts

NGram = tuple[str, ...]

ROUGE_BETA = 1.2
"""Weight of recall in ROUGE-L, as in the COCO caption evaluation."""

CIDER_ORDER = 4
CIDER_SIGMA = 6.0
"""Longest n-gram, and width in words of the length penalty of CIDEr-D."""


def bleu(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], order: int = 4
) -> tuple[float, ...]:
    """Return corpus BLEU-1 to BLEU-`order`, each in [0, 1] (Papineni et al. 2002).

    Counts are clipped by the largest count in one reference and summed over the corpus before
    dividing; the brevity penalty takes for each item the reference closest in length, the shorter
    of two equally close. No smoothing: an order without a match gives 0 from there on.

    Args:
        hypotheses: One caption an item.
        references: Reference captions of each item.
        order: Longest n-gram.

    Raises:
        InputError: The lists do not pair up or are empty, or `order` is below 1.
    """
    check_texts("bleu", hypotheses, references)
    if order < 1:
        raise InputError(f"bleu: order {order}; allowed: 1 or more (usual: 4)")
    matched, proposed = [0] * order, [0] * order
    length = closest = 0
    for hypothesis, accepted in zip(hypotheses, references, strict=True):
        words, texts = hypothesis.split(), [text.split() for text in accepted]
        length += len(words)
        closest += min((abs(len(text) - len(words)), len(text)) for text in texts)[1]
        for size in range(1, order + 1):
            limits: Counter[NGram] = Counter()
            for text in texts:
                limits |= _ngrams(text, size)
            matched[size - 1] += (_ngrams(words, size) & limits).total()
            proposed[size - 1] += max(0, len(words) - size + 1)
    if length == 0:
        return (0.0,) * order
    brevity = min(1.0, math.exp(1 - closest / length))
    scores = []
    for size in range(1, order + 1):
        if 0 in matched[:size]:
            scores.append(0.0)
            continue
        pairs = zip(matched[:size], proposed[:size], strict=True)
        scores.append(brevity * math.exp(sum(math.log(hit / all_) for hit, all_ in pairs) / size))
    return tuple(scores)


def rouge_l(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return ROUGE-L in [0, 1] as the COCO caption evaluation computes it (Lin 2004, eq. 4).

    From the longest common subsequence with each reference, the best precision and the best recall
    are taken separately and combined with beta = 1.2; items are averaged.

    Raises:
        InputError: The lists do not pair up or are empty.
    """
    scores = rouge_l_scores(hypotheses, references)
    return sum(scores) / len(scores)


def rouge_l_scores(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Return ROUGE-L of each caption; see `rouge_l`."""
    check_texts("rouge_l", hypotheses, references)
    return [
        _rouge(hypothesis.split(), [text.split() for text in accepted])
        for hypothesis, accepted in zip(hypotheses, references, strict=True)
    ]


def _rouge(words: Sequence[str], texts: Sequence[Sequence[str]]) -> float:
    if not words:
        return 0.0
    common = [_common_subsequence(words, text) for text in texts]
    precision = max(common) / len(words)
    recall = max(
        count / len(text) if text else 0.0 for count, text in zip(common, texts, strict=True)
    )
    if precision == 0 or recall == 0:
        return 0.0
    square = ROUGE_BETA**2
    return (1 + square) * precision * recall / (recall + square * precision)


def _common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    above = [0] * (len(right) + 1)
    for word in left:
        current = [0]
        for column, other in enumerate(right, 1):
            longest = max(above[column], current[-1])
            current.append(above[column - 1] + 1 if word == other else longest)
        above = current
    return above[-1]


def cider(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return CIDEr as its paper defines it, in [0, 10] (Vedantam et al. 2015, eq. 1 to 3).

    The mean over n = 1 to 4 of the cosine of TF-IDF vectors, averaged over references and items,
    times 10. Words are not stemmed. Note that the figure the COCO evaluation prints as "CIDEr" is
    CIDEr-D: use `cider_d` to compare with published numbers.

    Raises:
        InputError: The lists do not pair up, or the corpus has one item: document frequencies are
            counted over items, so with one item every weight log(1 / 1) is zero.
    """
    return _cider("cider", hypotheses, references, clip=False, penalise=False)


def cider_d(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return CIDEr-D, in [0, 10] (Vedantam et al. 2015, eq. 4 and 5): what COCO calls "CIDEr".

    As `cider`, with each weight of the hypothesis clipped at that of the reference, and a Gaussian
    penalty of sigma = 6 words on the difference in length.

    Raises:
        InputError: As for `cider`.
    """
    return _cider("cider_d", hypotheses, references, clip=True, penalise=True)


def _cider(
    metric: str,
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    clip: bool,
    penalise: bool,
) -> float:
    check_texts(metric, hypotheses, references)
    if len(hypotheses) == 1:
        raise InputError(
            f"{metric}: 1 item; its inverse document frequencies are log(1 / 1) = 0, so the score "
            "would be 0 whatever the caption. Score a corpus of at least 2 items at once"
        )
    frequency: Counter[NGram] = Counter()
    for accepted in references:
        frequency.update({gram for text in accepted for gram in _all_ngrams(text)})
    total = 0.0
    for hypothesis, accepted in zip(hypotheses, references, strict=True):
        vector = _weights(hypothesis, frequency, len(references))
        item = 0.0
        for text in accepted:
            cosine = _cosine(vector, _weights(text, frequency, len(references)), clip=clip)
            gap = len(hypothesis.split()) - len(text.split())
            item += cosine * (math.exp(-(gap**2) / (2 * CIDER_SIGMA**2)) if penalise else 1.0)
        total += 10.0 * item / len(accepted)
    return total / len(hypotheses)


def _cosine(
    left: Sequence[Mapping[NGram, float]], right: Sequence[Mapping[NGram, float]], *, clip: bool
) -> float:
    """Return the cosine averaged over n; a vector of zeros has cosine 0 with everything."""
    total = 0.0
    for ours, theirs in zip(left, right, strict=True):
        norms = math.hypot(*ours.values()) * math.hypot(*theirs.values())
        if norms == 0:
            continue
        product = 0.0
        for gram, weight in ours.items():
            other = theirs.get(gram, 0.0)
            product += (min(weight, other) if clip else weight) * other
        total += product / norms
    return total / len(left)


def _weights(text: str, frequency: Mapping[NGram, int], documents: int) -> list[dict[NGram, float]]:
    """Return, for n = 1 to 4, count times log(documents / documents that hold the n-gram)."""
    words = text.split()
    return [
        {
            gram: count * math.log(documents / max(1, frequency.get(gram, 0)))
            for gram, count in _ngrams(words, size).items()
        }
        for size in range(1, CIDER_ORDER + 1)
    ]


def _all_ngrams(text: str) -> set[NGram]:
    words = text.split()
    return {gram for size in range(1, CIDER_ORDER + 1) for gram in _ngrams(words, size)}


def _ngrams(words: Sequence[str], size: int) -> Counter[NGram]:
    return Counter(tuple(words[at : at + size]) for at in range(len(words) - size + 1))
