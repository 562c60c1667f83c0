"""The majority baseline: always say the most frequent answer of the question's kind."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from chiasm.evaluation.questions import Question


class Majority:
    """The most frequent answer of each kind, and over all kinds for kinds that were not seen.

    Args:
        normalise: Brings answers with one meaning together.
        questions: At least one question; the first accepted answer of each is counted.
        source: What the questions are, for reports: "training answers" or "evaluated answers".
    """

    def __init__(
        self, normalise: Callable[[str], str], questions: Sequence[Question], source: str
    ) -> None:
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for question in questions:
            counts[question.kind][normalise(question.answers[0])] += 1
        self.source = source
        self.by_kind = {kind: _most_frequent(found) for kind, found in counts.items()}
        self.overall = _most_frequent(sum(counts.values(), Counter()))

    def answer(self, kind: str) -> str:
        """Return the majority answer of a kind, normalised."""
        return self.by_kind.get(kind, self.overall)


def _most_frequent(counts: Counter[str]) -> str:
    """Return the most frequent text; of equally frequent ones the first in the alphabet."""
    return min(counts, key=lambda text: (-counts[text], text))
