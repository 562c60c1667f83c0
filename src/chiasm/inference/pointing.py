"""Pointing: what a model with the sense `point` offers, and the checks on what it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chiasm.core.errors import InputError
from chiasm.core.protocols import Fused
from chiasm.data.collate import Collator
from chiasm.inference.answers import Mask
from chiasm.inference.senses import Sensing, check_sense
from chiasm.models.phrase_samples import render_phrase, request_about

MaskHead = Literal["coarse", "refined"]
"""Which head's mask is wanted: that of the attention maps, or the one refined on the pixels."""

Found = Sequence[tuple[NDArray[np.bool_], float]]
"""For each phrase a mask bool (H, W) in original pixels, and a score in [0, 1]."""

Span = tuple[int, int]
"""First character of a piece of text, and one past its last."""


class Pointing(Protocol):
    """A model with the sense `point`."""

    @property
    def mask_heads(self) -> tuple[str, ...]:
        """The heads that the model has, of `MaskHead`, the best one last."""
        ...

    @property
    def collator(self) -> Collator:
        """Prepares pictures, and renders what is said about them."""
        ...

    @property
    def request(self) -> str:
        """What the user asks, where phrases are pointed at outside a conversation."""
        ...

    def read_picture(self, image: Image.Image, seen: tuple[Fused, Any] | None = None) -> Any:
        """Read a picture once; any number of phrases can be asked of what is returned.

        Args:
            image: The picture.
            seen: What the model saw of it when it was to answer, so that it looks once.
        """
        ...

    def point_at(self, reading: Any, phrases: Sequence[str], mask: str) -> Found:
        """Return mask and score of each phrase, by the head named."""
        ...

    def ground_text(
        self,
        image: Image.Image,
        messages: Sequence[Mapping[str, Any]],
        text: str,
        spans: Sequence[Span],
        mask: str,
    ) -> Found:
        """Return mask and score of pieces of a text that follows a conversation.

        Args:
            image: The picture that the pieces are to be found in: one of the conversation's.
            messages: The conversation in the OpenAI form, pictures included, a user's turn last.
            text: What the assistant says next.
            spans: Pieces of `text`.
            mask: The head.
        """
        ...


def as_pointing(model: Sensing) -> Pointing:
    """Return a model as one that points.

    Raises:
        InputError: It has no such sense.
    """
    check_sense(model, "point")
    return cast("Pointing", model)


def choose_head(model: Pointing, head: str | None) -> str:
    """Return the head to take masks from: the one named, or the model's best.

    Raises:
        InputError: The model has no such head.
    """
    if head is None:
        return model.mask_heads[-1]
    if head not in model.mask_heads:
        raise InputError(
            f"mask {head!r} is not one of this model's: {', '.join(model.mask_heads)}. Name one of "
            "them, or none to get the best; a recipe with a refiner trains 'refined'"
        )
    return head


def check_phrases(phrases: object) -> list[str]:
    """Return phrases as a list.

    Raises:
        InputError: It is no sequence of at least one text, or a text is blank.
    """
    if not isinstance(phrases, Sequence) or isinstance(phrases, str) or not phrases:
        raise InputError(f"phrases {phrases!r}; give a list of at least one phrase")
    for index, phrase in enumerate(phrases):
        if not isinstance(phrase, str) or not phrase.strip():
            raise InputError(
                f"phrase {index} is {phrase!r}; each phrase names what to look for, as a text that "
                "is not blank"
            )
    return list(phrases)


def check_readable(model: Pointing, image: Image.Image, phrases: Sequence[str]) -> None:
    """Check that a model can read a picture and phrases about it, without running the model.

    Raises:
        InputError: The host cannot prepare the picture, or a phrase is too long for the model.
        DataError: A phrase holds a special token of the host.
    """
    counts = model.collator.preparer.prepare([image]).token_counts
    request = request_about(image, model.request)
    for phrase in phrases:
        render_phrase(model.collator, request, phrase, counts)


def as_masks(found: Found, phrases: Sequence[str], image: Image.Image) -> list[Mask]:
    """Return what a model found as masks, with sizes and counts checked.

    Raises:
        InputError: The model gave another number of masks, or one of another size.
    """
    if len(found) != len(phrases):
        raise InputError(
            f"the model gave {len(found)} masks for {len(phrases)} phrases; it must give one each"
        )
    masks = []
    for phrase, (array, score) in zip(phrases, found, strict=True):
        if array.shape != (image.height, image.width) or array.dtype != np.bool_:
            raise InputError(
                f"mask of {phrase!r} is {array.dtype} {array.shape}; the image asks for bool "
                f"{(image.height, image.width)}, height before width"
            )
        masks.append(Mask(array, float(score), phrase))
    return masks
