"""A picture, a request and a phrase as the conversation in which the phrase is pointed at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from chiasm.core.errors import InputError
from chiasm.core.samples import Phrase, Sample, Turn
from chiasm.data.collate import Collator
from chiasm.data.conversation import shown
from chiasm.data.prompts import Prompt


def request_about(image: Image.Image, request: str) -> Sample:
    """Return the conversation before any phrase: a picture and what is asked about it."""
    return Sample("pointing", (Turn("user", (0, request)),), (image,))


def render_phrase(
    collator: Collator, request: Sample, phrase: str, token_counts: Sequence[int]
) -> Prompt:
    """Render a request with a phrase as its answer; the phrase is the one that the prompt marks.

    Args:
        collator: Of the model.
        request: See `request_about`.
        phrase: What to point at.
        token_counts: How many placeholders the picture takes.

    Raises:
        InputError: Request and phrase are longer than the collator allows.
        DataError: The phrase holds a special token of the host.
    """
    sample = replace(
        request,
        turns=(*request.turns, Turn("assistant", (phrase,))),
        phrases=(Phrase(turn=1, start=0, stop=len(phrase)),),
    )
    prompt = collator.prompter.render(sample, token_counts)
    if collator.max_length is not None and len(prompt) > collator.max_length:
        raise InputError(
            f"phrase {shown(phrase)}: {len(prompt)} tokens with picture and request, where the "
            f"model's recipe allows {collator.max_length} (data.max_length); give a shorter phrase"
        )
    return prompt
