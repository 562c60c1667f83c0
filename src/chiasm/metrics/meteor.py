"""METEOR of captions, approximate: words meet exactly or by their Porter stem, never by meaning.

The published programs also let synonyms and paraphrases meet, out of large tables, and version 1.5
counts content words more than function words; none of that is here. Compare these figures with
each other, not with published ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import snowballstemmer

from chiasm.core.config import lookup
from chiasm.metrics.pairs import check_texts

BEAM = 40
"""Partial alignments that are kept a word, as in METEOR 1.5; captions rarely have as many."""

_STEMMER = snowballstemmer.stemmer("porter")


@dataclass(frozen=True)
class MeteorParameters:
    """The numbers of METEOR, by the letters of its papers.

    Attributes:
        alpha: Weight of precision against recall: F = P R / (alpha P + (1 - alpha) R).
        beta: Exponent of the penalty.
        gamma: Largest penalty: gamma (chunks / matches)^beta.
        stem: What a match by stem counts; an exact one counts 1.
        whole: Whether a caption all of whose words meet all of its reference in one chunk has no
            penalty, as in the program of version 1.5, where it would cost gamma m^-beta.
    """

    alpha: float
    beta: float
    gamma: float
    stem: float
    whole: bool


METEOR_PARAMETERS: dict[str, MeteorParameters] = {
    "2005": MeteorParameters(alpha=0.9, beta=3.0, gamma=0.5, stem=1.0, whole=False),
    "1.5": MeteorParameters(alpha=0.85, beta=0.2, gamma=0.6, stem=0.6, whole=True),
}
"""Banerjee & Lavie 2005; Denkowski & Lavie 2014 for English, the version that the COCO caption
evaluation runs."""


def meteor_approximate(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], parameters: str = "1.5"
) -> float:
    """Return the mean over captions of approximate METEOR, in [0, 1].

    Each word of a caption meets at most one of the reference, exactly or by its Porter stem. Of the
    alignments with most matches the one with fewest chunks counts, runs of words that follow each
    other on both sides. P and R are the (weighted) matches over the words of either side, and the
    score is (1 - gamma (chunks / matches)^beta) P R / (alpha P + (1 - alpha) R), the best over
    references.

    Args:
        hypotheses: One caption an item; words are split at white space and compared as given.
        references: Reference captions of each item.
        parameters: Name in `METEOR_PARAMETERS`.

    Raises:
        InputError: The lists do not pair up or are empty.
        UnknownNameError: There are no such parameters.
    """
    scores = meteor_approximate_scores(hypotheses, references, parameters)
    return sum(scores) / len(scores)


def meteor_approximate_scores(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], parameters: str = "1.5"
) -> list[float]:
    """Return approximate METEOR of each caption; see `meteor_approximate`."""
    check_texts("meteor_approximate", hypotheses, references)
    chosen = lookup(METEOR_PARAMETERS, parameters, "set of METEOR's parameters")
    return [
        max(_score(hypothesis.split(), text.split(), chosen) for text in accepted)
        for hypothesis, accepted in zip(hypotheses, references, strict=True)
    ]


def _score(words: Sequence[str], reference: Sequence[str], parameters: MeteorParameters) -> float:
    alignment = align_words(words, reference)
    if not alignment.matches:
        return 0.0
    weight = alignment.exact + parameters.stem * (alignment.matches - alignment.exact)
    precision, recall = weight / len(words), weight / len(reference)
    mean = precision * recall / (parameters.alpha * precision + (1 - parameters.alpha) * recall)
    every = alignment.matches == len(words) == len(reference)
    if parameters.whole and alignment.chunks == 1 and every:
        return mean
    scattered = alignment.chunks / alignment.matches
    return mean * (1 - parameters.gamma * scattered**parameters.beta)


class WordAlignment(NamedTuple):
    """How a caption meets a reference.

    Attributes:
        matches: Words that meet one.
        exact: Those of them that meet the same word, not just its stem.
        chunks: Runs of words that follow each other on both sides.
    """

    matches: int
    exact: int
    chunks: int


class _Partial(NamedTuple):
    """An alignment up to some word; of two, the smaller is better."""

    chunks: int
    distance: int
    stemmed: int
    last: tuple[int, int]
    taken: frozenset[int]


def align_words(words: Sequence[str], reference: Sequence[str]) -> WordAlignment:
    """Align two lists of words: most matches, then fewest chunks, then nearest places.

    Words meet by their stem, so the number of matches is known beforehand: for each stem, the
    smaller of its counts. The search for the fewest chunks keeps the `BEAM` best alignments a word,
    as METEOR 1.5 does.
    """
    stems, others = [_stem(word) for word in words], [_stem(word) for word in reference]
    counts, limits = Counter(stems), Counter(others)
    wanted = sum((counts & limits).values())
    beam = [_Partial(0, 0, 0, (-2, -2), frozenset())]
    for place, stem in enumerate(stems):
        partners = [index for index, other in enumerate(others) if other == stem]
        # Words of this stem still to come; enough of them must find a partner.
        later = stems[place + 1 :].count(stem)
        following: set[_Partial] = set()
        for partial in beam:
            free = [index for index in partners if index not in partial.taken]
            found = len(partners) - len(free)
            if found + later >= min(counts[stem], limits[stem]):
                following.add(partial)
            for index in free:
                goes_on = partial.last == (place - 1, index - 1)
                following.add(
                    _Partial(
                        chunks=partial.chunks + (not goes_on),
                        distance=partial.distance + abs(place - index),
                        stemmed=partial.stemmed + (words[place] != reference[index]),
                        last=(place, index),
                        taken=partial.taken | {index},
                    )
                )
        beam = sorted(following, key=lambda partial: (*partial[:4], sorted(partial.taken)))[:BEAM]
    return WordAlignment(matches=wanted, exact=wanted - beam[0].stemmed, chunks=beam[0].chunks)


@lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    stem: str = _STEMMER.stemWord(word)
    return stem
