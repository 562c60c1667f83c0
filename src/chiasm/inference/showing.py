"""What a model was shown, kept: as the host reads it, and what the model made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from PIL import Image

from chiasm.core.batch import Batch
from chiasm.core.errors import InputError
from chiasm.core.protocols import PreparedImages
from chiasm.core.samples import Sample
from chiasm.data.collate import Collator
from chiasm.inference.pair_requests import read_pair
from chiasm.inference.pairs import ShownPair, as_pairing
from chiasm.inference.responding import Answering, Sight, look
from chiasm.inference.senses import Sensing


class _ChangedError(Exception):
    """The image that a question needs is not the one kept."""


@dataclass(frozen=True)
class ShownImage:
    """What is kept of an image.

    Attributes:
        model: The model that was shown it.
        image: The image.
        prepared: As the host reads it.
        sight: What the model made of it.
    """

    model: Answering
    image: Image.Image
    prepared: PreparedImages
    sight: Sight

    @classmethod
    def look(cls, model: Answering, image: Image.Image) -> ShownImage:
        """Prepare and look, without a question."""
        collator = model.collator
        prepared = collator.preparer.prepare([image])
        nothing = torch.zeros(1, 0, dtype=torch.long)
        batch = Batch(
            input_ids=nothing,
            attention_mask=nothing,
            labels=nothing,
            token_types=nothing,
            host_images=prepared.tensors,
            encoder_images={
                name: (transform(image, prepared.geometries[0]),)
                for name, transform in collator.transforms.items()
            },
            image_rows=torch.zeros(1, dtype=torch.long),
            geometries=prepared.geometries,
        ).to(model.host.device)
        sight = cast("Sight", look(model, batch))
        return cls(model, image, replace(prepared, tensors=batch.host_images), sight)

    def prepare(self, images: Sequence[Image.Image]) -> PreparedImages:
        """Be the image preparer of a collator that needs nothing prepared twice."""
        if len(images) == 1 and images[0] is self.image:
            return self.prepared
        raise _ChangedError

    def collate(self, sample: Sample) -> tuple[Batch, Sight]:
        """Collate a question around the kept image, or anew where the image has to shrink."""
        whole, device = self.model.collator, self.model.host.device
        collator = Collator(
            whole.prompter,
            self,
            max_length=whole.max_length,
            over_long=whole.over_long,
            loader=_keep,
        )
        try:
            return collator.collate([sample], generation=True).to(device), self.sight
        except _ChangedError:
            batch = whole.collate([sample], generation=True).to(device)
            return batch, cast("Sight", look(self.model, batch))


def show(
    model: Sensing, image: Image.Image | None, reconstruction: Any, about: Mapping[str, Any]
) -> ShownImage | ShownPair | None:
    """Let a model that answers questions look at what was given.

    Args:
        model: The model.
        image: The image, or None.
        reconstruction: What completes it, or None; see `PairRequest`.
        about: `mask`, `image_box` and `reconstruction_box`, None where not given.

    Raises:
        InputError: Half of a pair is missing, or a value is of a wrong type or form.
        DataError: A mask or box does not fit its picture.
        MediaError: A file is missing or no image.
    """
    if reconstruction is not None and image is not None:
        pair = read_pair(image, reconstruction, **about)
        return ShownPair.look(as_pairing(model), image, pair)
    if told := [name for name, value in about.items() if value is not None]:
        raise InputError(
            f"{' and '.join(told)}: told of an image and its reconstruction; give both pictures"
        )
    if reconstruction is not None:
        raise InputError("a reconstruction is of an image; give the image as well")
    if image is None or "ask" not in model.senses:
        return None
    if "reconstruction" in model.senses:
        raise InputError(
            "this model reads an image together with a reconstruction of what is hidden in it; "
            "give the reconstruction as well"
        )
    return ShownImage.look(cast("Answering", model), image)


def _keep(source: object) -> Image.Image:
    """Take a decoded image as it is."""
    return cast("Image.Image", source)
