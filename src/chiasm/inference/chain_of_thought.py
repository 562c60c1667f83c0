"""Visual chain of thought: find what a question is about, look at it closer, then answer.

After Shao et al. 2024 (Visual CoT, arXiv:2403.16999), with the region found by pointing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, get_args

from PIL import Image

from chiasm.core.errors import InputError
from chiasm.core.samples import Sample, Turn
from chiasm.inference.answers import Answer, Mask
from chiasm.inference.grounded import ground_spans
from chiasm.inference.pointing import Pointing, as_masks, choose_head
from chiasm.inference.responding import Answering, Generation, respond_to

Thought = Literal["object", "question", "none"]
"""What is pointed at: the object that the model names for the question, the words of the question
itself, or nothing (the question is asked of the whole picture alone)."""

OBJECT_REQUEST = (
    "Which object in the image matters most for this question? Name it in a few words.\n{question}"
)
OBJECT_TOKENS, ANSWER_TOKENS = 16, 32
END = "."

PixelBox = tuple[int, int, int, int]


class Thinking(Answering, Pointing, Protocol):
    """A model that answers and points."""


@dataclass(frozen=True)
class Closer:
    """How the region is cut.

    Attributes:
        scale: The box is enlarged by this factor around its middle first; above 0.
        least: Smallest half side of the region in original pixels.
    """

    scale: float = 1.0
    least: int = 8

    def __post_init__(self) -> None:
        if not self.scale > 0 or self.least < 1:
            raise InputError(
                f"region: scale {self.scale}, least {self.least}; allowed: a scale above 0, a "
                "half side of at least 1 pixel"
            )


@dataclass(frozen=True)
class ThoughtAnswer:
    """An answer with what was looked at on the way.

    Attributes:
        question: What was asked.
        thought: How the region was found.
        mask: What was pointed at, with the phrase; None without a thought, or where the model
            named no object.
        region: The part that was looked at closer, XYXY in original pixels; None where nothing was
            found, and the question was asked of the whole picture alone.
        answer: The answer.
    """

    question: str
    thought: Thought
    mask: Mask | None
    region: PixelBox | None
    answer: Answer

    @property
    def text(self) -> str:
        """The text of the answer."""
        return self.answer.text

    def document(self) -> dict[str, Any]:
        """Return everything in plain values, for JSON."""
        return {
            "question": self.question,
            "thought": self.thought,
            "mask": None if self.mask is None else self.mask.document(),
            "region": None if self.region is None else list(self.region),
            **self.answer.document(maps=False),
        }


def think(
    model: Thinking,
    image: Image.Image,
    question: str,
    thought: Thought = "object",
    *,
    mask: str | None = None,
    closer: Closer | None = None,
    max_new_tokens: int = ANSWER_TOKENS,
) -> ThoughtAnswer:
    """Answer a question about a picture with a closer look at what it is about.

    Args:
        model: A model that answers and points.
        image: The picture.
        question: The question.
        thought: What is pointed at.
        mask: Head to take the mask from; None for the best.
        closer: How the region is cut.
        max_new_tokens: Longest answer in tokens.

    Raises:
        InputError: No such thought or head, or a setting is out of range.
        DataError: The question is blank or holds a special token of the host.
    """
    check_thought(thought)
    head = choose_head(model, mask)
    found = None
    if thought == "object":
        found = _named_object(model, image, question, head)
    elif thought == "question":
        pointed = model.point_at(model.read_picture(image), [question], head)
        (found,) = as_masks(pointed, [question], image)
    region = None
    if found is not None and found.box is not None:
        region = cut_region(found.box, image.size, closer or Closer())
    sample = _question(image, question, region)
    (answer,) = respond_to(model, [sample], Generation(max_new_tokens))
    return ThoughtAnswer(question, thought, found, region, answer)


def check_thought(thought: str) -> Thought:
    """Return the name of a thought.

    Raises:
        InputError: There is none of this name.
    """
    if thought not in get_args(Thought):
        raise InputError(f"chain of thought {thought!r}; allowed: {', '.join(get_args(Thought))}")
    return cast("Thought", thought)


def cut_region(
    box: tuple[float, float, float, float], size: tuple[int, int], closer: Closer
) -> PixelBox:
    """Return the square around a box, moved to lie inside the picture.

    Its half side is the larger one of the scaled box, and at least `closer.least`. Where the
    picture is smaller than the square, the region has the picture's length on that axis.

    Args:
        box: XYXY in original pixels.
        size: (width, height) of the picture.
        closer: How.

    Returns:
        XYXY in whole original pixels, inside the picture.
    """
    half = max(
        (box[2] - box[0]) / 2 * closer.scale,
        (box[3] - box[1]) / 2 * closer.scale,
        float(closer.least),
    )
    (left, right), (top, bottom) = (
        _inside((box[axis] + box[axis + 2]) / 2, half, length) for axis, length in enumerate(size)
    )
    return left, top, right, bottom


def _inside(middle: float, half: float, length: int) -> tuple[int, int]:
    side = min(round(2 * half), length)
    first = min(max(round(middle - side / 2), 0), length - side)
    return first, first + side


def _named_object(model: Thinking, image: Image.Image, question: str, head: str) -> Mask | None:
    """Let the model name the object, and point at the words it wrote; None where it wrote none."""
    turns = (Turn("user", (0, OBJECT_REQUEST.format(question=question))),)
    sample = Sample("object", turns, (image,))
    (named,) = respond_to(model, [sample], Generation(OBJECT_TOKENS, stop=(END,)))
    words = named.text.strip().rstrip(END).strip()
    if not words:
        return None
    start = named.text.index(words)
    spans = [(start, start + len(words))]
    (phrase,) = ground_spans(model, image, turns, named.text, spans, head)
    return phrase.mask


def _question(image: Image.Image, question: str, region: PixelBox | None) -> Sample:
    if region is None:
        return Sample("question", (Turn("user", (0, question)),), (image,))
    turns = (Turn("user", (0, 1, question)),)
    return Sample("question", turns, (image, image.crop(region)))
