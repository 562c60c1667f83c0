"""The self-check: name it; was it clear?; if not, look at the reconstruction.

The cascade of OCC-MLLM-CoT-Alpha (2025, arXiv:2504.04781): the model names the thing on the
original, judges whether it was clear, and only where it was not is it asked again on a
reconstruction. There the judgement is trained on whether the model's own first answer was right. A
model that was never taught to judge itself gives scores that mean little; they are returned so that
this can be seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from chiasm.core.config import lookup
from chiasm.core.errors import InputError
from chiasm.core.samples import Turn
from chiasm.data.pair_controls import ControlledPairs, PairControl
from chiasm.inference.answers import DIGITS, Answer
from chiasm.inference.pairs import ShownPair, score_reply
from chiasm.inference.pictures import read_picture
from chiasm.inference.responding import Generation

Closer = Literal["reconstruction", "pair"]

CLARITY = "Is the object clear?"
"""The question by which the model judges itself."""

_CONTROLS: dict[str, PairControl] = {
    "original": "original_only",
    "reconstruction": "reconstruction_only",
    "pair": "given",
}


@dataclass(frozen=True, eq=False)
class SelfCheck:
    """What came of a self-check.

    Attributes:
        first: The answer on the original alone.
        scores: Log-probabilities of the replies `yes` and `no` to whether it was clear.
        clear: Whether the model judged so.
        second: The answer of the closer look; None where it was clear.
        source: What the answer that counts was read from: `original`, `reconstruction` or `pair`.
    """

    first: Answer
    scores: dict[str, float]
    clear: bool
    second: Answer | None
    source: str

    @property
    def answer(self) -> Answer:
        """The answer that counts."""
        return self.second or self.first

    @property
    def text(self) -> str:
        """The text of the answer that counts."""
        return self.answer.text

    @property
    def clarity(self) -> float:
        """Probability of `yes` among the two replies, in [0, 1]."""
        return 1 / (1 + math.exp(min(700.0, self.scores["no"] - self.scores["yes"])))

    def document(self) -> dict[str, Any]:
        """Return everything in plain values, for JSON."""
        return {
            "text": self.text,
            "source": self.source,
            "clear": self.clear,
            "clarity": round(self.clarity, DIGITS),
            "scores": {name: round(score, DIGITS) for name, score in self.scores.items()},
            "first": self.first.text,
            "second": None if self.second is None else self.second.text,
        }


def check_itself(
    shown: ShownPair,
    question: str,
    *,
    clarity: str = CLARITY,
    yes: str = "Yes",
    no: str = "No",
    closer: Closer = "reconstruction",
    sure: float = 0.5,
    max_new_tokens: int = 128,
) -> SelfCheck:
    """Ask on the original, let the model judge, and look closer where it was not clear.

    Args:
        shown: The pair, as a model that reads pairs was shown it.
        question: Asks for the thing.
        clarity: Asks whether it was clear, after question and answer.
        yes: The reply that it was.
        no: The reply that it was not.
        closer: What the closer look is at: the `reconstruction` alone, as in the source, or the
            `pair`, which the model was trained to read.
        sure: Probability of `yes` among both replies from which on it counts as clear.
        max_new_tokens: Longest answer in tokens.

    Raises:
        UnknownNameError: `closer` is neither.
        InputError: `sure` is out of range, or both replies are the same.
        DataError: A text is blank or holds a special token of the host.
    """
    lookup(dict.fromkeys(get_args(Closer)), closer, "closer look")
    if not 0 <= sure <= 1:
        raise InputError(f"sure is {sure}; give a probability from 0 to 1")
    if yes == no:
        raise InputError(f"both replies are {yes!r}; give two that differ")
    generation = Generation(max_new_tokens)
    asked = [Turn("user", (0, question))]
    alone = _under(shown, "original")
    first = alone.answer(asked, generation)
    said = [*asked, Turn("assistant", (first.text,)), Turn("user", (clarity,))]
    # A model that says nothing has no answer to be judged.
    turns = said if first.text.strip() else [Turn("user", (0, clarity))]
    scores = {name: _score(alone, turns, reply) for name, reply in (("yes", yes), ("no", no))}
    found = SelfCheck(first, scores, True, None, "original")
    if found.clarity >= sure:
        return found
    second = _under(shown, closer).answer(asked, generation)
    return SelfCheck(first, scores, False, second, closer)


def _under(shown: ShownPair, source: str) -> ShownPair:
    """Show the model original or reconstruction alone, or the pair again."""
    if source == "pair":
        return shown
    sample = shown.sample([Turn("user", (0,))])
    changed = ControlledPairs([sample], _CONTROLS[source])[0]
    assert changed.pair is not None
    return ShownPair.look(shown.model, read_picture(changed.images[0]), changed.pair)


def _score(shown: ShownPair, turns: list[Turn], reply: str) -> float:
    """Return the log-probability of a reply, its end included."""
    told = Turn("assistant", (reply,), supervised=True)
    collated = shown.model.collator.collate([shown.sample([*turns, told])])
    return score_reply(shown.model, collated.to(shown.model.host.device), shown.view)[0]
