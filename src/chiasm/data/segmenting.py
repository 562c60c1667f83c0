"""Pictures and masks as batches of prompts: what a segmenter is trained on."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from chiasm.core.batch import IGNORE, Batch, PhraseBatch
from chiasm.core.errors import DataError
from chiasm.core.grid import ImageGeometry
from chiasm.core.protocols import EncoderTransform
from chiasm.core.samples import Sample
from chiasm.data.conversation import name_of
from chiasm.data.mask_prompts import MaskPrompts, PromptDrawing, draw_prompts
from chiasm.data.media import load_image

NAME = "segmenter"
"""The name under which a batch carries the segmenter's images."""

KINDS, COARSE, BOXES = "prompts.kinds", "prompts.coarse", "prompts.boxes"
POINTS, LABELS = "prompts.points", "prompts.labels"


class SegmentCollator:
    """Turns samples of one picture with masks into a batch without text.

    Masks are those of `Sample.phrases`, or else `truth["masks"]`, bool (K, H, W). To them come, by
    chance, the union of two or more, and the background, for phrases mean those, too. Empty masks
    are left out. Which masks and prompts are drawn depends on the sample's identifier and `seed`
    alone.

    A batch has `phrases` with their masks, the images in `encoder_images["segmenter"]`, and in
    `targets`, for P masks:

    - `prompts.kinds` int64 (P, 3): whether there is a coarse mask, whether a box, how many points
    - `prompts.coarse` float32 (P, side, side), logits over the whole image
    - `prompts.boxes` float32 (P, 4), XYXY in original pixels
    - `prompts.points` float32 (P, most points, 2), (X, Y) in original pixels
    - `prompts.labels` int64 (P, most points), 1 on the mask, 0 beside it

    What is not given is 0.

    Args:
        transform: Prepares an image for the segmenter.
        drawing: How prompts are drawn.
        further: How often, for each picture, a union and a background are added.
        seed: Of the draws.
    """

    def __init__(
        self,
        transform: EncoderTransform,
        drawing: PromptDrawing,
        *,
        further: float = 0.25,
        seed: int = 0,
    ) -> None:
        self.transform = transform
        self.drawing = drawing
        self.further = further
        self.seed = seed

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Collate samples.

        Raises:
            DataError: There is no sample, one has not exactly one image, or no mask with pixels.
            MediaError: An image cannot be read.
        """
        if not samples:
            raise DataError("an empty list of samples; give at least one")
        drawn = [self._draw(sample) for sample in samples]
        counts = torch.tensor([len(one.masks) for one in drawn])
        owners = torch.arange(len(samples)).repeat_interleave(counts)
        blank = torch.zeros((len(samples), 1), dtype=torch.long)
        phrases = PhraseBatch(
            rows=owners,
            images=owners,
            tokens=torch.stack([torch.arange(len(owners)), torch.zeros_like(owners)], dim=1),
            masks=tuple(torch.from_numpy(mask) for one in drawn for mask in one.masks),
            names=tuple(name for one in drawn for name in one.names),
        )
        return Batch(
            input_ids=blank,
            attention_mask=torch.ones_like(blank),
            labels=torch.full_like(blank, IGNORE),
            token_types=torch.zeros_like(blank),
            encoder_images={
                NAME: tuple(self.transform(one.image, one.geometry) for one in drawn),
            },
            image_rows=torch.arange(len(samples)),
            geometries=tuple(one.geometry for one in drawn),
            targets=self._targets([prompts for one in drawn for prompts in one.prompts]),
            samples=tuple(samples),
            phrases=phrases,
        )

    def _draw(self, sample: Sample) -> _Drawn:
        if len(sample.images) != 1:
            raise DataError(
                f"{name_of(sample)}: {len(sample.images)} images; a segmenter learns from samples "
                "of one image"
            )
        image = load_image(sample.images[0])
        given = [mask for mask in _masks(sample, image) if mask.any()]
        if not given:
            raise DataError(f"{name_of(sample)}: no mask with a pixel; a segmenter needs one")
        rng = np.random.default_rng([self.seed, zlib.crc32(sample.identifier.encode())])
        masks = {str(index): mask for index, mask in enumerate(given)}
        masks |= _further(given, rng, self.further)
        prompts = tuple(
            draw_prompts(mask, _others(given, mask), rng, self.drawing) for mask in masks.values()
        )
        return _Drawn(
            image=image,
            geometry=_whole(image),
            masks=tuple(masks.values()),
            names=tuple(f"{sample.identifier}/{name}" for name in masks),
            prompts=prompts,
        )

    def _targets(self, prompts: Sequence[MaskPrompts]) -> dict[str, Tensor]:
        side, most = self.drawing.side, self.drawing.points
        found = {
            KINDS: torch.zeros((len(prompts), 3), dtype=torch.long),
            COARSE: torch.zeros((len(prompts), side, side)),
            BOXES: torch.zeros((len(prompts), 4)),
            POINTS: torch.zeros((len(prompts), most, 2)),
            LABELS: torch.zeros((len(prompts), most), dtype=torch.long),
        }
        for index, one in enumerate(prompts):
            count = 0 if one.labels is None else len(one.labels)
            found[KINDS][index] = torch.tensor([one.coarse is not None, one.box is not None, count])
            if one.coarse is not None:
                found[COARSE][index] = torch.from_numpy(one.coarse)
            if one.box is not None:
                found[BOXES][index] = torch.from_numpy(one.box)
            if one.points is not None and one.labels is not None:
                found[POINTS][index, :count] = torch.from_numpy(one.points)
                found[LABELS][index, :count] = torch.from_numpy(one.labels)
        return found


@dataclass(frozen=True)
class _Drawn:
    """One picture with its masks, each with prompts."""

    image: Image.Image
    geometry: ImageGeometry
    masks: tuple[NDArray[np.bool_], ...]
    names: tuple[str, ...]
    prompts: tuple[MaskPrompts, ...]


def _masks(sample: Sample, image: Image.Image) -> list[NDArray[np.bool_]]:
    masks = [phrase.mask.read() for phrase in sample.phrases if phrase.mask is not None]
    if not masks:
        masks = list(np.asarray(sample.truth.get("masks", ()), dtype=np.bool_))
    for index, mask in enumerate(masks):
        if mask.shape != (image.height, image.width):
            raise DataError(
                f"{name_of(sample)}: mask {index} has {mask.shape} pixels (height, width), the "
                f"image {(image.height, image.width)}; give masks in the image's pixels"
            )
    return masks


def _further(
    given: Sequence[NDArray[np.bool_]], rng: np.random.Generator, share: float
) -> dict[str, NDArray[np.bool_]]:
    """Draw a union of some masks and the background, each with a chance of `share`."""
    found = {}
    union, background = rng.random(2) < share
    if union and len(given) > 1:
        chosen = rng.permutation(len(given))[: int(rng.integers(2, len(given) + 1))]
        found["union"] = np.any([given[index] for index in chosen], axis=0)
    if background and not (everything := np.any(list(given), axis=0)).all():
        found["background"] = ~everything
    return found


def _others(given: Sequence[NDArray[np.bool_]], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the given masks that share no pixel with one, bool (K, H, W)."""
    apart = [other for other in given if not (other & mask).any()]
    return np.stack(apart) if apart else np.zeros((0, *mask.shape), np.bool_)


def _whole(image: Image.Image) -> ImageGeometry:
    """Return the geometry of the picture as one cell."""
    size = (image.height, image.width)
    return ImageGeometry.from_resize(size, size, size)
