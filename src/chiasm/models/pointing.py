"""Pointing at one picture: read once, asked often; and at pieces of what was said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from chiasm.core.batch import IMAGE_TOKEN
from chiasm.core.errors import InputError
from chiasm.core.grid import ImageGeometry
from chiasm.core.outputs import Outputs
from chiasm.core.protocols import Fused
from chiasm.core.samples import Phrase, Sample, Turn
from chiasm.data.chat import read_messages
from chiasm.heads.masks import mask_and_score
from chiasm.heads.segment_anything import ImageEmbeddings
from chiasm.language.hosts.protocol import CellGrid
from chiasm.language.phrase_asking import ask_phrases
from chiasm.language.phrase_maps import image_grids
from chiasm.language.prefix import Prefix
from chiasm.models.phrase_samples import render_phrase, request_about
from chiasm.models.probes import probing

if TYPE_CHECKING:
    from chiasm.models.grounding import Grounding

Found = list[tuple[NDArray[np.bool_], float]]
"""For each phrase a mask bool (H, W) in original pixels, and a score in [0, 1]."""

Seen = tuple[Fused, Any]
"""What `see` makes of a batch."""

PHRASES_AT_ONCE = 32
"""Most phrases that are read together; bounds memory, changes no result."""


@dataclass(frozen=True)
class Reading:
    """A picture that was read, and is remembered as far as phrases need it.

    Attributes:
        sample: The request about the picture.
        prompt: int64 (S,), the tokens of the request, as rendered.
        geometry: Of the picture.
        grids: Where its cells stand in the text.
        token_counts: How many placeholders the picture takes.
        prefix: What the host remembers.
        embeddings: What the refiner made of the picture, if there is one.
        pictures: The picture as a head that looks at colours reads it; empty for other heads.
    """

    sample: Sample
    prompt: Tensor
    geometry: ImageGeometry
    grids: tuple[CellGrid, ...]
    token_counts: tuple[int, ...]
    prefix: Prefix
    embeddings: ImageEmbeddings | None
    pictures: tuple[Tensor, ...]


def read_picture(model: Grounding, image: Image.Image, seen: Seen | None = None) -> Reading:
    """Read a picture and the request before any phrase.

    Args:
        model: The model.
        image: The picture.
        seen: What the base saw of it before. It is looked at anew where that is not told, or where
            the request leaves it room for other cells.

    Raises:
        MediaError: The picture cannot be read.
    """
    sample = request_about(image, model.request)
    host = model.host
    batch = model.collator.collate([sample], generation=True).to(host.device)
    with probing(model):
        if seen is None or seen[0].tokens.geometries != batch.geometries:
            seen = model.see(batch)
        fused, extras = seen
        spliced = host.splice(batch, fused.tokens, extras, fused.tokens_per_cell)
        prefix = Prefix.read(host, spliced)
        embeddings = model.masks.embed(batch)
        (grids,) = image_grids(host, batch.geometries, fused.tokens_per_cell, fused.tokens)
    return Reading(
        sample=sample,
        prompt=batch.input_ids[0].cpu(),
        geometry=batch.geometries[0],
        grids=grids,
        token_counts=(int((batch.token_types == IMAGE_TOKEN).sum()),),
        prefix=prefix,
        embeddings=embeddings,
        pictures=model.masks.pictures(batch),
    )


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
