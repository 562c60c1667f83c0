"""Pictures as batches of their own: what a tokenizer of pictures is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from PIL import Image
from torch import Tensor

from chiasm.core.batch import IGNORE, Batch
from chiasm.core.errors import DataError
from chiasm.core.grid import ImageGeometry
from chiasm.core.samples import Sample
from chiasm.data.conversation import name_of
from chiasm.data.media import load_image

PICTURES = "pictures"
"""The name under which a batch carries pictures that are their own target."""

View = Literal["image", "reconstruction", "target"]
"""Of a sample: each of its images; of its pair: the reconstruction, the target."""

VIEWS: tuple[View, ...] = ("image", "reconstruction", "target")


class PictureTransform(Protocol):
    """Turns a picture into what a tokenizer reads."""

    def geometry(self, size: tuple[int, int]) -> ImageGeometry:
        """Return where the codes lie in an image of `size` (height, width)."""
        ...

    def __call__(self, image: Image.Image) -> Tensor:
        """Return float32 (3, side, side), RGB in [-1, 1]."""
        ...


class PictureCollator:
    """Turns samples into a batch of pictures without text.

    A batch has in `targets["pictures"]` float32 (P, 3, side, side), RGB in [-1, 1], the pictures of
    each sample in turn, with `image_rows` and `geometries` of them. A sample without a pair gives
    its images alone.

    Args:
        transform: Prepares a picture, shown whole.
        views: Which pictures of a sample are taken.
    """

    def __init__(self, transform: PictureTransform, views: Sequence[View] = VIEWS) -> None:
        self.transform = transform
        self.views = tuple(views)

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Collate samples.

        Raises:
            DataError: There is no sample, or one has none of the pictures asked for.
            MediaError: An image cannot be read.
        """
        if not samples:
            raise DataError("an empty list of samples; give at least one")
        pictures = [self._pictures(sample) for sample in samples]
        counts = torch.tensor([len(own) for own in pictures])
        blank = torch.zeros((len(samples), 1), dtype=torch.long)
        images = [image for own in pictures for image in own]
        return Batch(
            input_ids=blank,
            attention_mask=torch.ones_like(blank),
            labels=torch.full_like(blank, IGNORE),
            token_types=torch.zeros_like(blank),
            image_rows=torch.arange(len(samples)).repeat_interleave(counts),
            geometries=tuple(self.transform.geometry((one.height, one.width)) for one in images),
            targets={PICTURES: torch.stack([self.transform(image) for image in images])},
            samples=tuple(samples),
        )

    def _pictures(self, sample: Sample) -> list[Image.Image]:
        found = list(sample.images) if "image" in self.views else []
        pair = sample.pair
        if pair is not None and "reconstruction" in self.views:
            found.append(pair.reconstruction)
        if pair is not None and pair.target is not None and "target" in self.views:
            found.append(pair.target)
        if not found:
            raise DataError(
                f"{name_of(sample)}: it has none of the pictures asked for "
                f"({', '.join(self.views)}); take its `image`, or give samples with pairs"
            )
        return [load_image(source) for source in found]
