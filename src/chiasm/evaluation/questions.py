"""One question at a time: what evaluation makes of conversations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from chiasm.core.errors import DataError
from chiasm.core.samples import Sample, Turn

MIXED = "mixed"
"""Group of a sample whose questions are of several kinds; each question then counts by its kind."""


@dataclass(frozen=True)
class Question:
    """One question with its accepted answers.

    Attributes:
        sample: What the model sees: it ends with the user turn to answer, and holds no truth.
        answers: Accepted answers, the one to learn first.
        group: Label for grouped reports.
        kind: Kind of question; the majority baseline is taken within it.
        source: Identifier of the sample it was cut from. Questions of one source share images,
            so intervals are drawn over sources.
        turn: Its place among the questions of its source, from 0.
    """

    sample: Sample
    answers: tuple[str, ...]
    group: str
    kind: str
    source: str
    turn: int

    @property
    def identifier(self) -> str:
        """Unique identifier: that of the sample, with the place where it has several questions."""
        return self.sample.identifier

    @property
    def text(self) -> str:
        """The text of the user turn to answer."""
        return self.sample.turns[-1].text


def split_questions(samples: Iterable[Sample], *, keep_history: bool = False) -> list[Question]:
    """Cut samples into single questions: one for each supervised assistant turn.

    A question keeps the system turns and all images that came up to it. Without history the
    images of dropped turns are put in front of its text, and earlier questions and answers are
    gone, so that an answer cannot be read off another one.

    Accepted answers come from `truth["answers"]` (a list for the only question, or one list a
    question), else the text of the assistant turn is the only one. Kinds come from
    `truth["kind"]`, or `truth["kinds"]` with one a question, else the group.

    Args:
        samples: Samples with truth.
        keep_history: Keep earlier questions with their true answers in front.

    Raises:
        DataError: Every sample without a question, or whose lists of answers or kinds do not fit
            its questions; or identifiers that occur twice.
    """
    questions: list[Question] = []
    faults: list[str] = []
    seen: dict[str, str] = {}
    for sample in samples:
        place = sample.origin or sample.identifier
        if sample.identifier in seen:
            faults.append(
                f"{place}: identifier {sample.identifier!r} already stands in "
                f"{seen[sample.identifier]}; identifiers must differ"
            )
            continue
        seen[sample.identifier] = place
        ends = [index for index, turn in enumerate(sample.turns) if turn.supervised]
        if not ends:
            faults.append(f"{place}: no supervised assistant turn, so there is nothing to score")
            continue
        try:
            answers, kinds = _answers(sample, ends), _kinds(sample, len(ends))
        except DataError as error:
            faults.append(f"{place}: {error}")
            continue
        for turn, end in enumerate(ends):
            questions.append(
                Question(
                    sample=_cut(sample, end, turn, len(ends), keep_history),
                    answers=answers[turn],
                    group=kinds[turn] if sample.group in ("", MIXED) else sample.group,
                    kind=kinds[turn],
                    source=sample.identifier,
                    turn=turn,
                )
            )
    if faults:
        raise DataError(f"evaluation data: {len(faults)} fault(s)", faults)
    return questions


def _answers(sample: Sample, ends: Sequence[int]) -> list[tuple[str, ...]]:
    listed = sample.truth.get("answers")
    if listed is None:
        return [(sample.turns[end].text,) for end in ends]
    if len(ends) == 1 and listed and all(isinstance(item, str) for item in listed):
        return [tuple(listed)]
    if len(listed) != len(ends) or any(isinstance(item, str) or not item for item in listed):
        raise DataError(
            f"answers {listed!r} for {len(ends)} question(s); give one non-empty list a question"
        )
    return [tuple(item) for item in listed]


def _kinds(sample: Sample, count: int) -> list[str]:
    kinds = sample.truth.get("kinds")
    if kinds is None:
        return [str(sample.truth.get("kind", sample.group))] * count
    if isinstance(kinds, str) or len(kinds) != count:
        raise DataError(f"kinds {kinds!r} for {count} question(s); give one a question")
    return [str(kind) for kind in kinds]


def _cut(sample: Sample, end: int, turn: int, count: int, keep_history: bool) -> Sample:
    before = sample.turns[:end]
    if keep_history and before and before[-1].role == "user":
        turns = tuple(replace(earlier, supervised=False) for earlier in before)
    else:
        turns = _alone(before)
    images = [part for earlier in turns for part in earlier.parts if isinstance(part, int)]
    identifier = sample.identifier if count == 1 else f"{sample.identifier}#{turn}"
    return replace(
        sample,
        identifier=identifier,
        turns=_renumber(turns, images),
        images=tuple(sample.images[index] for index in images),
        truth={},
    )


def _alone(before: Sequence[Turn]) -> tuple[Turn, ...]:
    """Return system turns and the last user turn, with the images of the turns between."""
    system = tuple(turn for turn in before if turn.role == "system")
    asked = before[-1].parts if before and before[-1].role == "user" else ()
    kept = {part for turn in system for part in turn.parts} | set(asked)
    carried = [
        part for turn in before for part in turn.parts if isinstance(part, int) and part not in kept
    ]
    return (*system, Turn(role="user", parts=(*carried, *asked)))


def _renumber(turns: Sequence[Turn], images: Sequence[int]) -> tuple[Turn, ...]:
    place = {image: position for position, image in enumerate(images)}
    return tuple(
        replace(
            turn,
            parts=tuple(part if isinstance(part, str) else place[part] for part in turn.parts),
        )
        for turn in turns
    )
