"""What a conversation must look like, whatever file or program it came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from chiasm.core.errors import DataError
from chiasm.core.samples import Role, Sample, Turn

ROLES: tuple[str, ...] = get_args(Role)
SHOWN = 80
"""Characters of a value that a message shows."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong with one record.

    Attributes:
        origin: File and line.
        field: Where in the record, for example `messages[1].role`.
        value: What stands there, as text, shortened.
        allowed: What may stand there, and the next step.
    """

    origin: str
    field: str
    value: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.field}: {self.value}; {self.allowed}"


def shown(value: object) -> str:
    """Return a value as a message shows it: its representation, shortened."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def conversation_faults(
    turns: Sequence[Turn], image_count: int, origin: str, field: str = "turns"
) -> list[Fault]:
    """Return everything wrong with a conversation.

    At most one system turn, at the start; then user and assistant in alternation, a user first;
    no turn without content; text only in assistant turns; each image referred to exactly once, in
    the order of `Sample.images`.

    Args:
        turns: The conversation.
        image_count: Number of images of the sample.
        origin: File and line, for the faults.
        field: Name of the list of turns, for the faults.
    """
    faults = [Fault(origin, *found) for found in _turn_faults(turns, field)]
    references = [part for turn in turns for part in turn.parts if isinstance(part, int)]
    if references != list(range(image_count)):
        faults.append(
            Fault(
                origin,
                field,
                f"refers to images {references}, the sample has {image_count}",
                "refer to each image exactly once, in order; put one placeholder for each image",
            )
        )
    return faults


def _turn_faults(turns: Sequence[Turn], field: str) -> Iterator[tuple[str, str, str]]:
    if not turns:
        yield field, "no turns", "a conversation needs at least a user turn"
    expected = "user"
    for index, turn in enumerate(turns):
        place = f"{field}[{index}]"
        if turn.role not in ROLES:
            yield f"{place}.role", shown(turn.role), f"allowed: {', '.join(ROLES)}"
        elif turn.role == "system":
            if index > 0:
                yield f"{place}.role", "'system'", "a system turn may only be the first"
        else:
            if turn.role != expected:
                yield (
                    f"{place}.role",
                    shown(turn.role),
                    f"expected {expected!r}; user and assistant alternate, a user first",
                )
            expected = "assistant" if turn.role == "user" else "user"
        has_image = any(isinstance(part, int) for part in turn.parts)
        if not turn.text.strip() and not has_image:
            yield f"{place}.content", shown(turn.text), "a turn needs text that is not blank"
        if turn.role == "assistant" and has_image:
            yield f"{place}.content", "an image", "images stand in user or system turns"
        if turn.supervised and turn.role != "assistant":
            yield f"{place}.supervised", "True", "only assistant turns can be supervised"


def name_of(sample: Sample) -> str:
    """Return how messages name a sample: its origin, else its identifier."""
    if sample.origin and sample.identifier and sample.identifier not in sample.origin:
        return f"{sample.origin} (id {sample.identifier})"
    return sample.origin or sample.identifier


def raise_faults(title: str, faults: Sequence[Fault], most: int = 200) -> None:
    """Raise all faults as one error; do nothing when there are none.

    Args:
        title: First line of the message.
        faults: The faults.
        most: How many the message lists; the rest is counted.

    Raises:
        DataError: There is at least one fault.
    """
    if not faults:
        return
    lines = [str(fault) for fault in faults[:most]]
    if len(faults) > most:
        lines.append(f"and {len(faults) - most} more; `chiasm data check` lists them all")
    raise DataError(f"{title}: {len(faults)} fault(s)", lines)
