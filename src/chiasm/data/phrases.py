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
    said: Sequence[Said | str],
    request: str,
    supervised: bool = False,
    separator: str = SEPARATOR,
) -> tuple[tuple[Turn, ...], tuple[Phrase, ...]]:
    """Return a conversation about one image that says phrases, and where they stand in it.

    The user shows image 0 and asks `request`; the assistant says everything in order.

    Args:
        said: Phrases, and words between them that mean no pixels; at least one, none blank.
        request: What the user asks.
        supervised: Whether training scores the assistant's words.
        separator: Stands between two of them, and belongs to neither.

    Raises:
        InputError: Nothing is said, or something blank.
    """
    words = [piece.text if isinstance(piece, Said) else piece for piece in said]
    if not words or not all(text.strip() for text in words):
        raise InputError(f"phrases {words}; give at least one, and none blank")
    text = ""
    phrases = []
    for piece, piece_words in zip(said, words, strict=True):
        text += separator if text else ""
        if isinstance(piece, Said):
            phrases.append(place_phrase(piece, 1, len(text)))
        text += piece_words
    turns = (Turn("user", (0, request)), Turn("assistant", (text,), supervised))
    return turns, tuple(phrases)


def place_phrase(said: Said, turn: int, start: int) -> Phrase:
    """Return a phrase about image 0 that begins at a character of a turn."""
    return Phrase(
        turn=turn,
        start=start,
        stop=start + len(said.text),
        mask=said.mask,
        identifier=said.identifier,
        thing=said.thing,
        plural=said.plural,
    )
