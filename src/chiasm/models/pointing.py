"""Pointing at a picture that was read, and at pieces of what was said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.grid import ImageGeometry
from chiasm.core.outputs import Outputs
from chiasm.core.samples import Phrase, Turn
from chiasm.data.chat import read_messages
from chiasm.heads.masks import mask_and_score
from chiasm.language.phrase_asking import ask_phrases
from chiasm.models.phrase_samples import render_phrase
from chiasm.models.picture_reading import Reading
from chiasm.models.probes import probing

if TYPE_CHECKING:
    from chiasm.models.grounding import Grounding

Found = list[tuple[NDArray[np.bool_], float]]
"""For each phrase a mask bool (H, W) in original pixels, and a score in [0, 1]."""

PHRASES_AT_ONCE = 32
"""Most phrases that are read together; bounds memory, changes no result."""


def point_at(model: Grounding, reading: Reading, phrases: Sequence[str], mask: str) -> Found:
    """Point at phrases in a picture that was read; each costs its own tokens only.

    Raises:
        InputError: A phrase is blank, has no token, or is longer than the collator allows.
        DataError: A phrase holds a special token of the host.
    """
    found: Found = []
    for start in range(0, len(phrases), PHRASES_AT_ONCE):
        found += _point_at(model, reading, phrases[start : start + PHRASES_AT_ONCE], mask)
    return found


def _point_at(model: Grounding, reading: Reading, phrases: Sequence[str], mask: str) -> Found:
    said = [_following(model, reading, phrase) for phrase in phrases]
    with probing(model):
        read = ask_phrases(
            model.host,
            reading.prefix,
            said,
            reading.grids,
            merge=model.merge,
            hidden=model.masks.wants_states,
        )
        embeddings = None if mask == "coarse" else reading.embeddings
        only = torch.zeros(len(phrases), dtype=torch.long, device=model.host.device)
        geometries = [reading.geometry]
        outputs = model.masks.predict(read, only, geometries, embeddings, reading.pictures)
        return decide(outputs, mask, [reading.geometry] * len(phrases))


def point_in_text(
    model: Grounding,
    image: Image.Image,
    messages: Sequence[Mapping[str, Any]],
    text: str,
    spans: Sequence[tuple[int, int]],
    mask: str,
) -> Found:
    """Point at pieces of a text that follows a conversation.

    The text is read again as the assistant's turn. Attention is causal, so its tokens see what they
    saw while they were written, and the maps are those of writing.

    Args:
        model: The model.
        image: The picture that the pieces are to be found in: one of the conversation's.
        messages: The conversation, a user's turn last.
        text: What the assistant says next.
        spans: Pieces of `text`, [start, stop) in characters.
        mask: The head.

    Raises:
        InputError: The picture is none of the conversation's, or a piece has no token.
    """
    asked = read_messages(messages)
    places = [place for place, source in enumerate(asked.images) if source is image]
    if not places and len(asked.images) != 1:
        raise InputError(
            f"the picture is none of the conversation's {len(asked.images)}; pass the very object "
            "that stands in the messages"
        )
    where = places[0] if places else 0
    turn = len(asked.turns)
    sample = replace(
        asked,
        turns=(*asked.turns, Turn("assistant", (text,))),
        phrases=tuple(
            Phrase(turn=turn, start=start, stop=stop, image=where, identifier=f"{place}")
            for place, (start, stop) in enumerate(spans)
        ),
    )
    return model.predict(model.collator([sample]).to(model.host.device), mask)


def decide(outputs: Outputs, head: str, geometries: Sequence[ImageGeometry]) -> Found:
    """Turn the logits of a head into masks of the size of their pictures, with scores.

    The score is the refiner's own guess of the intersection over union, and without one the mean
    probability inside the mask.

    Raises:
        InputError: There is no such head.
    """
    if head not in outputs.masks:
        raise InputError(f"mask {head!r} is none of {', '.join(outputs.masks)}; name one of them")
    guesses = outputs.named.get(f"{head}.scores")
    found: Found = []
    for index, (logits, geometry) in enumerate(zip(outputs.masks[head], geometries, strict=True)):
        size = (geometry.original_height, geometry.original_width)
        mask, score = mask_and_score(logits, size)
        guess = score if guesses is None else min(1.0, max(0.0, float(guesses[index])))
        found.append((mask, guess))
    return found


def _following(model: Grounding, reading: Reading, phrase: str) -> tuple[Tensor, Tensor]:
    """Return the tokens of a phrase after the request, int64 (T,), and the places of its own."""
    prompt = render_phrase(model.collator, reading.sample, phrase, reading.token_counts)
    begun = len(reading.prompt)
    if not torch.equal(prompt.input_ids[:begun], reading.prompt):
        raise InputError(
            f"phrase {phrase!r} changes how the host's chat template writes the request before it; "
            "use a template that writes each turn the same way"
        )
    places = torch.tensor(prompt.phrases[0], dtype=torch.long) - begun
    return prompt.input_ids[begun : begun + int(places[-1]) + 1], places
