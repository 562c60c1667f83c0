"""The words that moving worlds use, for models with a closed vocabulary."""

from __future__ import annotations

from chiasm.data.video_words import ACTIONS_REQUEST, VIDEO_REQUEST
from chiasm.data.vocabulary import Vocabulary
from chiasm.data.world.motion import ACTIONS
from chiasm.data.world.motion_questions import MOTION_ANSWERS
from chiasm.data.world.scene import COLOURS, SHAPES

_FRAMES = """
    what color shape is what did the thing do first last how many times was something
    before a an then with nothing happens moves turns blinks collides appears is hidden
"""
"""What stands around the words of the tables, in questions and captions."""


def _distinct(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for text in texts for word in Vocabulary.split(text)))


MOTION_WORDS: tuple[str, ...] = _distinct(
    (*MOTION_ANSWERS, *ACTIONS.values(), _FRAMES, VIDEO_REQUEST, ACTIONS_REQUEST)
)
"""Every word of a question, an answer or a caption."""

CAPTION_WORDS: tuple[str, ...] = _distinct(
    (
        *COLOURS,
        *SHAPES,
        "a an the then with nothing happens moves turns blinks collides appears is hidden",
    )
)
"""Every word of a caption, and no other one: what is not here is never written."""
