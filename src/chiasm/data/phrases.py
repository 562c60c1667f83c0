"""Phrases that mean pixels, written into a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chiasm.core.errors import InputError
from chiasm.core.samples import MaskSource, Phrase, Turn

SEPARATOR = ". "
"""Stands between two phrases of a turn, as in referring segmentation; it belongs to neither."""


@dataclass(frozen=True)
class Said:
    """A phrase before it has a place in a text.

    Attributes:
        text: Its words.
        mask: The pixels it means, where they are known.
        identifier: What names it; unique within its sample.
        thing: Whether it means countable things rather than stuff; None where nobody said.
        plural: Whether it means several things.
    """

    text: str
    mask: MaskSource | None
    identifier: str
    thing: bool | None = None
    plural: bool = False


def naming_turns(
    said: Sequence[Said], request: str, supervised: bool = False
) -> tuple[tuple[Turn, ...], tuple[Phrase, ...]]:
    """Return a conversation about one image that names phrases, and where they stand in it.

    The user shows image 0 and asks `request`; the assistant says all phrases, separated by
    `SEPARATOR`.

    Args:
        said: The phrases, in order; at least one, none of them blank.
        request: What the user asks.
        supervised: Whether training scores the assistant's words.

    Raises:
        InputError: There is no phrase, or one is blank.
    """
    if not said or any(not phrase.text.strip() for phrase in said):
        raise InputError(
            f"phrases {[phrase.text for phrase in said]}; give at least one, and none blank"
        )
    text = ""
    phrases = []
    for phrase in said:
        text += SEPARATOR if text else ""
        phrases.append(_placed(phrase, 1, len(text)))
        text += phrase.text
    turns = (Turn("user", (0, request)), Turn("assistant", (text,), supervised))
    return turns, tuple(phrases)


def _placed(said: Said, turn: int, start: int) -> Phrase:
    return Phrase(
        turn=turn,
        start=start,
        stop=start + len(said.text),
        mask=said.mask,
        identifier=said.identifier,
        thing=said.thing,
        plural=said.plural,
    )
