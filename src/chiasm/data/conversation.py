"""What a conversation must look like, whatever file or program it came from."""

from __future__ import annotations

from collections.abc import Sequence
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

    @property
    def line(self) -> int:
        """The line of the origin; 0 where it names none."""
        number = self.origin.rpartition(":")[2].partition("#")[0]
        return int(number) if number.isascii() and number.isdigit() else 0

    def __str__(self) -> str:
        return f"{self.origin}: {self.field}: {self.value}; {self.allowed}"


def shown(value: object) -> str:
    """Return a value as a message shows it: its representation, shortened."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def conversation_faults(turns: Sequence[Turn], image_count: int, origin: str) -> list[Fault]:
    """Return everything wrong with a conversation.

    At most one system turn, at the start; then user and assistant in alternation, a user first;
    no turn without content; text only in assistant turns; each image referred to exactly once, in
    the order of `Sample.images`.

    Args:
        turns: The conversation.
        image_count: Number of images of the sample.
        origin: File and line, for the faults.
    """
    places = [f"turns[{index}]" for index in range(len(turns))]
    faults = role_faults(turns, origin, places) + content_faults(turns, origin, places)
    references = [part for turn in turns for part in turn.parts if isinstance(part, int)]
    if references != list(range(image_count)):
        faults.append(
            Fault(
                origin,
                "turns",
                f"refers to images {references}, the sample has {image_count}",
                "refer to each image exactly once, in order",
            )
        )
    return faults


def role_faults(turns: Sequence[Turn], origin: str, places: Sequence[str]) -> list[Fault]:
    """Return what is wrong with who speaks when; `places` name the turns in messages."""
    if not turns:
        return [Fault(origin, "turns", "none", "a conversation needs at least a user turn")]
    faults = []
    expected = "user"
    for index, (turn, place) in enumerate(zip(turns, places, strict=True)):
        if turn.role not in ROLES:
            allowed = f"allowed: {', '.join(ROLES)}"
            faults.append(Fault(origin, place, f"{shown(turn.role)} is not a role", allowed))
        elif turn.role == "system":
            if index > 0:
                allowed = "a system turn may only be the first"
                faults.append(Fault(origin, place, "a system turn", allowed))
        else:
            if turn.role != expected:
                allowed = f"expected {expected}: user and assistant alternate, a user first"
                faults.append(Fault(origin, place, f"a turn of the {turn.role}", allowed))
            expected = "assistant" if turn.role == "user" else "user"
    if all(turn.role == "system" for turn in turns):
        faults.append(Fault(origin, places[-1], "no turn follows", "a user turn is needed"))
    return faults


def content_faults(turns: Sequence[Turn], origin: str, places: Sequence[str]) -> list[Fault]:
    """Return what is wrong with what is said; `places` name the turns in messages."""
    faults = []
    for turn, place in zip(turns, places, strict=True):
        has_image = any(isinstance(part, int) for part in turn.parts)
        if not turn.text.strip() and not has_image:
            allowed = "a turn needs text that is not blank"
            faults.append(Fault(origin, place, f"{shown(turn.text)} is no content", allowed))
        if turn.role == "assistant" and has_image:
            allowed = "images stand in user or system turns"
            faults.append(Fault(origin, place, "an image in an assistant turn", allowed))
        if turn.supervised and turn.role != "assistant":
            allowed = "only assistant turns can be supervised"
            faults.append(Fault(origin, place, f"a supervised {turn.role} turn", allowed))
    return faults


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
