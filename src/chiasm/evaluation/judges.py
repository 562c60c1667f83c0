"""Judges of free answers: by matching words, or by a model behind a URL that the user gives."""

from __future__ import annotations

import json
import os
import re
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from chiasm.core.errors import InputError
from chiasm.metrics.normalisation import normalise_answer

Score = Callable[[str, str, Sequence[str]], float]
"""A function of question, answer and accepted answers that returns a score in [0, 1]."""

REQUEST = (
    "Rate how well an answer to a question about an image agrees with the accepted answers.\n"
    "Question: {question}\nAccepted answers: {references}\nAnswer: {answer}\n"
    "Reply with one number from 0 (wrong) to 1 (right), and nothing else."
)
TEMPERATURE = 0.2

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)")


@runtime_checkable
class Judge(Protocol):
    """Scores answers.

    Attributes:
        unreadable: How many replies held no number and counted 0.
    """

    unreadable: int

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def __call__(self, question: str, answer: str, references: Sequence[str]) -> float:
        """Return a score in [0, 1]."""
        ...


@dataclass
class FunctionJudge:
    """A plain function as a judge.

    Attributes:
        score: The function.
        name: What reports call it.
        unreadable: Always 0.
    """

    score: Score
    name: str
    unreadable: int = 0

    def __call__(self, question: str, answer: str, references: Sequence[str]) -> float:
        """Return the function's score.

        Raises:
            InputError: It is not in [0, 1].
        """
        found = float(self.score(question, answer, references))
        if not 0 <= found <= 1:
            raise InputError(f"judge {self.name!r} gave {found}; a score lies in [0, 1]")
        return found


@dataclass
class ChatJudge:
    """A model behind an OpenAI-compatible server.

    Questions and answers are sent to that server, and nothing else.

    Attributes:
        url: Start of the address, for example `http://localhost:8000/v1`.
        model: Name of the model there.
        key_variable: Name of the environment variable that holds the key; none is sent where it is
            not set.
        temperature: Of the sampling.
        timeout: Seconds to wait for a reply.
        unreadable: How many replies held no number and counted 0.
    """

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    temperature: float = TEMPERATURE
    timeout: float = 60.0
    unreadable: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise InputError(
                f"judge at {self.url!r}; give the address of an OpenAI-compatible server, for "
                "example http://localhost:8000/v1"
            )

    @property
    def name(self) -> str:
        """Model, server and temperature."""
        return f"{self.model} at {self.url}, temperature {self.temperature}"

    def __call__(self, question: str, answer: str, references: Sequence[str]) -> float:
        """Return the number in the model's reply, clipped to [0, 1]; 0 where there is none.

        Raises:
            InputError: The server cannot be reached, refuses, or replies in another form.
        """
        found = read_score(self._ask(question, answer, references))
        if found is None:
            self.unreadable += 1
        return found or 0.0

    def _ask(self, question: str, answer: str, references: Sequence[str]) -> str:
        content = REQUEST.format(
            question=question, references=" / ".join(references), answer=answer
        )
        body = {
            "model": self.model,
            "temperature": self.temperature,
            "messages": [{"role": "user", "content": content}],
        }
        key = os.environ.get(self.key_variable)
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/chat/completions",
            data=json.dumps(body).encode(),
            headers={
                "Content-Type": "application/json",
                **({"Authorization": f"Bearer {key}"} if key else {}),
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                return str(json.load(reply)["choices"][0]["message"]["content"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise InputError(
                f"judge {self.name}: {type(error).__name__}: {error}; check the address, the "
                f"model's name, and the key in {self.key_variable}"
            ) from None


def read_score(reply: str) -> float | None:
    """Return the first number of a reply, clipped to [0, 1]; None where there is none."""
    found = _NUMBER.search(reply)
    return None if found is None else min(1.0, max(0.0, float(found.group())))


def contains_match(question: str, answer: str, references: Sequence[str]) -> float:
    """Return 1 where an accepted answer stands in the answer as whole words, else 0.

    Both are compared in lower case, without punctuation and articles. An accepted answer of which
    nothing is left then must be the whole answer.
    """
    said = normalise_answer(answer).split()
    for reference in references:
        wanted = normalise_answer(reference).split()
        places = range(len(said) - len(wanted) + 1)
        if said == wanted or (
            wanted and any(said[at : at + len(wanted)] == wanted for at in places)
        ):
            return 1.0
    return 0.0


def as_judge(judge: Judge | Score) -> Judge:
    """Return a judge, or a plain function as one, called by its name."""
    if isinstance(judge, Judge):
        return judge
    return FunctionJudge(judge, judge.__name__)
