"""METEOR of captions, approximate: words meet exactly or by their Porter stem, never by meaning.

The published programs also let synonyms and paraphrases meet, out of large tables, and version 1.5
counts content words more than function words; none of that is here. Compare these figures with
each other, not with published ones.
"""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
    """An alignment up to some word; of two, the smaller is better.

    Attributes:
        chunks: See `WordAlignment`.
        distance: How far apart words that meet stand, summed.
        stemmed: Words that meet by their stem alone.
        last: The last two that met.
        taken: `_TAKEN` or `_FREE` for each word of the reference up to the last one taken.
    """

    chunks: int
    distance: int
    stemmed: int
    last: tuple[int, int]
    taken: bytes

    def has(self, index: int) -> bool:
        """Whether a word of the reference is taken."""
        return index < len(self.taken) and self.taken[index] == _TAKEN

    def meet(self, place: int, index: int, cost: tuple[int, int]) -> _Partial:
        """Return it with one more word that meets one, for their distance and whether by stem."""
        taken = self.taken.ljust(index + 1, bytes([_FREE]))
        return _Partial(
            chunks=self.chunks + (self.last != (place - 1, index - 1)),
            distance=self.distance + cost[0],
            stemmed=self.stemmed + cost[1],
            last=(place, index),
            taken=taken[:index] + bytes([_TAKEN]) + taken[index + 1 :],
        )


_TAKEN, _FREE = 0, 1


def align_words(words: Sequence[str], reference: Sequence[str]) -> WordAlignment:
    """Align two lists of words: most matches, then fewest chunks, then nearest places.

    Where those leave a choice, words meet exactly rather than by their stem. Words meet by their
    stem, so the number of matches is known beforehand: for each stem, the smaller of its counts.
    The search for the fewest chunks keeps the `BEAM` best alignments a word, as METEOR 1.5 does;
    its time grows with the words of the caption times those of the reference.
    """
    stems, others = [_stem(word) for word in words], [_stem(word) for word in reference]
    limits = Counter(stems) & Counter(others)
    partners: dict[str, list[int]] = {}
    for index, other in enumerate(others):
        partners.setdefault(other, []).append(index)
    later = Counter(stems)
    beam = [_Partial(0, 0, 0, (-2, -2), b"")]
    for place, stem in enumerate(stems):
        # Words of this stem still to come; enough of them must find a partner.
        later[stem] -= 1
        fitting = partners.get(stem, [])
        cost = {one: (abs(place - one), int(words[place] != reference[one])) for one in fitting}
        near = dict(sorted(cost.items(), key=lambda item: (item[1], item[0])))
        ways = []
        for partial in beam:
            known = fitting[: bisect_left(fitting, len(partial.taken))]
            found = len(known) - sum(map(partial.taken.__getitem__, known))
            ways.append(_go_on(partial, place, near, found + later[stem] >= limits[stem]))
        distinct = (one for one, _ in itertools.groupby(heapq.merge(*ways)))
        beam = list(itertools.islice(distinct, BEAM))
    wanted = sum(limits.values())
    return WordAlignment(matches=wanted, exact=wanted - beam[0].stemmed, chunks=beam[0].chunks)


def _go_on(
    partial: _Partial, place: int, near: Mapping[int, tuple[int, int]], skips: bool
) -> Iterator[_Partial]:
    """Go through what an alignment becomes with one word more, the best first.

    Args:
        partial: The alignment.
        place: Of the word.
        near: The words of the reference that it may meet, the nearest first, and for each how far
            it is and whether they meet by stem alone.
        skips: Whether it may meet none.
    """
    if skips:
        yield partial
    following = partial.last[1] + 1 if partial.last[0] == place - 1 else -1
    if following in near and not partial.has(following):
        yield partial.meet(place, following, near[following])
    for index, cost in near.items():
        if index != following and not partial.has(index):
            yield partial.meet(place, index, cost)


@lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    stem: str = _STEMMER.stemWord(word)
    return stem
