"""A grounded conversation: an answer, and the pixels that its phrases mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from chiasm.core.samples import Turn
from chiasm.inference.answers import Answer, Mask
from chiasm.inference.phrases import Extractor, Span, check_spans, find_phrases
from chiasm.inference.pointing import Pointing, as_masks


@dataclass(frozen=True)
class GroundedPhrase:
    """A piece of an answer and its pixels.

    Attributes:
        start: Its first character in the answer.
        stop: One past its last character.
        mask: Its pixels; `mask.phrase` is the piece.
    """

    start: int
    stop: int
    mask: Mask


@dataclass(frozen=True)
class GroundedAnswer:
    """An answer whose phrases are pointed at.

    Attributes:
        question: What was asked.
        answer: What the model said.
        phrases: Pieces of the answer with their pixels, in order, none over another.
        image: The picture.
    """

    question: str
    answer: Answer
    phrases: tuple[GroundedPhrase, ...]
    image: Image.Image

    @property
    def text(self) -> str:
        """The text of the answer."""
        return self.answer.text

    @property
    def masks(self) -> list[Mask]:
        """The masks, in the order of the phrases."""
        return [phrase.mask for phrase in self.phrases]

    def __str__(self) -> str:
        return self.text

    def document(self) -> dict[str, Any]:
        """Return everything in plain values, for JSON."""
        return {
            "question": self.question,
            **self.answer.document(),
            "masks": [
                {"start": phrase.start, "stop": phrase.stop, **phrase.mask.document()}
                for phrase in self.phrases
            ],
        }


def ground_answer(
    model: Pointing,
    image: Image.Image,
    turns: Sequence[Turn],
    answer: Answer,
    head: str,
    extractor: str | Extractor = "rules",
) -> GroundedAnswer:
    """Point at the phrases of an answer.

    The model reads the answer again as its own words, with the attention that these words had when
    it wrote them.

    Args:
        model: The model that gave the answer.
        image: The picture.
        turns: The conversation up to the question, the picture in its first user turn.
        answer: The answer.
        head: Head to take masks from.
        extractor: What finds the phrases; see `inference.phrases.find_phrases`.

    Raises:
        InputError: The extractor gave faulty spans, or the model faulty masks.
    """
    spans = find_phrases(answer.text, extractor)
    phrases = ground_spans(model, image, turns, answer.text, spans, head)
    return GroundedAnswer(turns[-1].text, answer, phrases, image)


def ground_spans(
    model: Pointing,
    image: Image.Image,
    turns: Sequence[Turn],
    text: str,
    spans: Sequence[Span],
    head: str,
) -> tuple[GroundedPhrase, ...]:
    """Point at pieces of what the model said after a conversation; see `ground_answer`."""
    checked = check_spans(text, spans)
    if not checked:
        return ()
    pieces = [text[start:stop] for start, stop in checked]
    found = model.ground_text(image, as_messages(turns, image), text, checked, head)
    return tuple(
        GroundedPhrase(start, stop, mask)
        for (start, stop), mask in zip(checked, as_masks(found, pieces, image), strict=True)
    )


def as_messages(turns: Sequence[Turn], image: Image.Image) -> list[Mapping[str, Any]]:
    """Return a conversation about one picture as messages in the OpenAI form."""
    return [
        {
            "role": turn.role,
            "content": [
                {"type": "text", "text": part}
                if isinstance(part, str)
                else {"type": "image", "image": image}
                for part in turn.parts
            ],
        }
        for turn in turns
    ]
