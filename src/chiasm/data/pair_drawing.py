"""A pair as pictures with what is known of it drawn: hidden pixels and boxes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from chiasm.core.errors import DataError
from chiasm.core.samples import Box, ImageSource, Sample
from chiasm.data.conversation import name_of
from chiasm.data.masks import read_mask

HIDDEN = (15, 98, 254)
"""Colour of hidden pixels, laid half transparent over the image."""

BOX = (241, 194, 27)
"""Colour of boxes."""


def draw_pair(
    sample: Sample, image: Image.Image, loader: Callable[[ImageSource], Image.Image]
) -> dict[str, Image.Image]:
    """Draw a pair.

    Args:
        sample: A sample with a pair.
        image: Its image as RGB.
        loader: Reads the other pictures as RGB.

    Returns:
        Caption -> picture in original pixels: the image, its reconstruction, and the target where
        it is known.

    Raises:
        DataError: The sample has no pair, or its mask is broken.
        MediaError: A picture cannot be read.
    """
    pair = sample.pair
    if pair is None:
        raise DataError(f"{name_of(sample)} has no reconstruction to be drawn")
    told = "image"
    if pair.hidden is not None:
        name = f"{name_of(sample)}: hidden"
        mask = read_mask(pair.hidden, image.height, image.width, name, may_be_empty=True)
        pixels = np.asarray(image, np.float32).copy()
        pixels[mask] = (pixels[mask] + np.array(HIDDEN, np.float32)) / 2
        image = Image.fromarray(pixels.astype(np.uint8))
        told = f"image, {mask.mean():.1%} hidden"
    pictures = {
        told: _boxed(image, pair.image_box),
        "reconstruction": _boxed(loader(pair.reconstruction), pair.reconstruction_box),
    }
    if pair.target is not None:
        pictures["target"] = loader(pair.target)
    return pictures


def _boxed(image: Image.Image, box: Box | None) -> Image.Image:
    """Return a picture with the border of a box drawn just inside of it."""
    if box is None:
        return image
    drawn = image.copy()
    left, top, right, bottom = (round(side) for side in box)
    last = (max(left, right - 1), max(top, bottom - 1))
    ImageDraw.Draw(drawn).rectangle(((left, top), last), outline=BOX)
    return drawn
