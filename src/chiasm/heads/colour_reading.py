"""Masks read from colours, places and words: a small head for few pictures and strange hosts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from chiasm.core.config import Config
from chiasm.core.errors import InputError
from chiasm.core.grid import ImageGeometry

FEATURES = 26
"""Numbers of a cell: see `ColourReading`."""

_MIDDLE, _SPREAD = 0.45, 0.27
"""Mean and standard deviation of colours in [0, 1] over photographs (ImageNet), all three alike."""

_AROUND, _NEAR = 7, 5
"""Sides, in cells, of the neighbourhoods that colours and roughness are averaged over."""


class ColourReadingConfig(Config):
    """Reading of masks from colours.

    Attributes:
        width: Width of the host's word embeddings.
        side: Cells along each side of the picture, whatever its shape.
        detail: Pixels along each side of a cell.
    """

    width: int = Field(gt=0)
    side: int = Field(default=28, gt=0)
    detail: int = Field(default=4, gt=0)

    def build(self) -> ColourReading:
        """Build the head."""
        return ColourReading(width=self.width, side=self.side, detail=self.detail)


@dataclass(frozen=True)
class ColourTransform:
    """Stretches a picture to a square; an `EncoderTransform` that sees the whole picture.

    Attributes:
        side: Height and width of what is returned.
    """

    side: int

    def __call__(self, image: Image.Image, geometry: ImageGeometry | None = None) -> Tensor:
        """Prepare one image.

        Args:
            image: The original image, any mode; read as RGB.
            geometry: The host's, not used.

        Returns:
            float32 (3, side, side), RGB in [0, 1].
        """
        size = (self.side, self.side)
        pixels = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(pixels, dtype=np.float32)).permute(2, 0, 1) / 255


class ColourReading(nn.Module):
    """Scores a cell by what it looks like, where it lies, and which word is asked for.

    score(cell, phrase) = f(cell) . (w + W n(phrase)), where

    - f(cell) are 26 numbers of the picture: one; the cell's colour, and that of the 7 x 7 cells
      around it; how rough the cell, its 5 x 5 cells, and their colours are; squares and products of
      colours; the place as y, y^2, x^2, x^2 y, y^3 with x and y from -1 to 1 over the picture; and
      y times the colours. No number tells left from right: a mirrored picture has mirrored masks.
    - n(phrase) is the mean of the host's word embeddings over the phrase's tokens, brought to mean
      0 and variance 1. Words keep apart what a host without photographs mixes up in its states.

    All weights start at zero. A score above zero is inside. The host's attention is not read.

    Args:
        width: As in the configuration.
        side: As in the configuration.
        detail: As in the configuration.
    """

    def __init__(self, *, width: int, side: int, detail: int) -> None:
        super().__init__()
        self.width, self.side, self.detail = width, side, detail
        self.shared = nn.Linear(FEATURES, 1, bias=False)
        self.words = nn.Linear(width, FEATURES, bias=False)
        nn.init.zeros_(self.shared.weight)
        nn.init.zeros_(self.words.weight)

    @property
    def transform(self) -> ColourTransform:
        """What prepares pictures."""
        return ColourTransform(self.side * self.detail)

    def geometry(self, size: tuple[int, int]) -> ImageGeometry:
        """Return where the head's cells lie in an image of `size` (height, width)."""
        return ImageGeometry.from_resize(size, (self.side, self.side), (1, 1))

    def predict(self, pictures: Sequence[Tensor], words: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Score the cells of each phrase's picture.

        Args:
            pictures: For each phrase float (3, side * detail, side * detail), as `transform` gives.
                Phrases of one picture may share the tensor; it is looked at once.
            words: For each phrase float (its tokens, width), the host's embeddings of them.

        Returns:
            For each phrase float32 (side, side), logits over the whole original image.

        Raises:
            InputError: A picture or words have another shape, or not one a phrase.
        """
        self._check(pictures, words)
        if not words:
            return ()
        distinct = {id(picture): picture for picture in pictures}
        order = {key: place for place, key in enumerate(distinct)}
        cells = look(torch.stack(list(distinct.values())).float(), self.detail)
        mean = torch.stack([one.float().mean(0) for one in words])
        weight = self.words.weight.dtype
        asked = nn.functional.layer_norm(mean, (self.width,)).to(weight)
        by_phrase = (self.shared.weight + self.words(asked)).float()
        chosen = cells[[order[id(picture)] for picture in pictures]]
        return tuple(torch.einsum("pfhw,pf->phw", chosen, by_phrase))

    def _check(self, pictures: Sequence[Tensor], words: Sequence[Tensor]) -> None:
        if len(pictures) != len(words):
            raise InputError(
                f"colour reading: {len(pictures)} pictures for {len(words)} phrases; give each "
                "phrase its picture"
            )
        shape = (3, self.side * self.detail, self.side * self.detail)
        for place, (picture, said) in enumerate(zip(pictures, words, strict=True)):
            if tuple(picture.shape) != shape:
                raise InputError(
                    f"colour reading: the picture of phrase {place} has the shape "
                    f"{tuple(picture.shape)}, the head reads {shape}; prepare it by `transform`"
                )
            if said.dim() != 2 or said.shape[1] != self.width or not len(said):
                raise InputError(
                    f"colour reading: the words of phrase {place} have the shape "
                    f"{tuple(said.shape)}; give (tokens, {self.width}) with at least one token"
                )


def look(pictures: Tensor, detail: int) -> Tensor:
    """Describe the cells of pictures; see `ColourReading`.

    Args:
        pictures: float (I, 3, H, W), RGB in [0, 1].
        detail: Pixels along each side of a cell; divides H and W.

    Returns:
        float (I, 26, H / detail, W / detail).
    """
    colours = nn.functional.avg_pool2d(pictures, detail)
    around = _average(colours, _AROUND)
    grey = pictures.mean(1, keepdim=True)
    of_squares = nn.functional.avg_pool2d(grey.square(), detail)
    within = (of_squares - nn.functional.avg_pool2d(grey, detail).square()).clamp_min(0).sqrt()
    unlike = _average((colours - around).abs(), _NEAR).mean(1, keepdim=True)
    rough = 10 * torch.cat([within, _average(within, _NEAR), unlike], dim=1) - 0.5
    colour, near = (colours - _MIDDLE) / _SPREAD, (around - _MIDDLE) / _SPREAD
    red, green, blue = colour.split(1, dim=1)
    products = torch.cat([colour.square(), red * green, green * blue], dim=1) - 1
    x, y = _middles(colour, 3), _middles(colour, 2)
    places = torch.cat([y, y.square(), x.square(), x.square() * y, y**3], dim=1)
    height = y * torch.cat([colour, near], dim=1)
    one = torch.ones_like(red)
    return torch.cat([one, colour, near, rough, products, _ROOT * places, _ROOT * height], dim=1)


_ROOT = 3**0.5
"""A coordinate that is uniform in [-1, 1] times this has variance 1."""


def _average(maps: Tensor, side: int) -> Tensor:
    """Average over `side` x `side` cells; the outermost cells are repeated beyond the edge."""
    reach = side // 2
    padded = nn.functional.pad(maps, (reach, reach, reach, reach), mode="replicate")
    return nn.functional.avg_pool2d(padded, side, stride=1)


def _middles(like: Tensor, axis: int) -> Tensor:
    """Return float (I, 1, h, w): where the middle of each cell lies along an axis, from -1 to 1."""
    count = like.shape[axis]
    middles = (torch.arange(count, device=like.device, dtype=like.dtype) * 2 + 1) / count - 1
    shape = [1, 1, 1, 1]
    shape[axis] = count
    return middles.view(shape).expand(len(like), 1, *like.shape[2:])
