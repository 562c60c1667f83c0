"""A picture read once, so that any number of phrases can be asked of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from chiasm.core.batch import IMAGE_TOKEN
from chiasm.core.grid import ImageGeometry
from chiasm.core.protocols import Fused
from chiasm.core.samples import Sample
from chiasm.heads.segment_anything import ImageEmbeddings
from chiasm.language.hosts.protocol import CellGrid
from chiasm.language.phrase_maps import image_grids
from chiasm.language.prefix import Prefix
from chiasm.models.phrase_samples import request_about
from chiasm.models.probes import probing

if TYPE_CHECKING:
    from chiasm.models.grounding import Grounding

Seen = tuple[Fused, Any]
"""What `see` makes of a batch."""


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
