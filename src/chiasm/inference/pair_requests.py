"""What a caller gives as a pair: pictures, a mask, boxes and a question, read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from chiasm.core.errors import InputError
from chiasm.core.samples import Box, MaskSource, Pair, Sample, Turn
from chiasm.data.masks import ArrayMask, PictureMask, PngMask, read_mask
from chiasm.data.media import local_path
from chiasm.inference.pictures import read_picture


@dataclass(frozen=True)
class PairRequest:
    """A question about an image and its reconstruction.

    Attributes:
        image: A path, a PIL image, or an array HWC uint8 in [0, 255].
        reconstruction: As `image`.
        question: The question.
        mask: The pixels of `image` that are hidden: the path of a PNG or a PIL image, in which
            every value but 0 says so, or an array bool (H, W).
        image_box: The box of the whole thing in `image`, XYXY in its pixels.
        reconstruction_box: Its box in the reconstruction, in that picture's pixels.
        id: What names it in messages and predictions.
    """

    image: Any
    reconstruction: Any
    question: str
    mask: Any = None
    image_box: Sequence[float] | None = None
    reconstruction_box: Sequence[float] | None = None
    id: str = "pair"

    @classmethod
    def of(cls, values: Mapping[str, Any], index: int) -> PairRequest:
        """Read a request from a dictionary.

        Raises:
            InputError: It is no dictionary, or a key is unknown or missing.
        """
        known = [entry.name for entry in fields(cls)]
        needed = known[:3]
        if not isinstance(values, Mapping):
            raise InputError(
                f"pair {index} is of type {type(values).__name__}; give a dictionary with "
                f"{', '.join(needed)}"
            )
        wrong = [key for key in values if key not in known]
        lacking = [key for key in needed if values.get(key) is None]
        if wrong or lacking:
            told = [f"has the unknown {', '.join(map(repr, wrong))}"] if wrong else []
            told += [f"lacks {', '.join(map(repr, lacking))}"] if lacking else []
            raise InputError(
                f"pair {index} {' and '.join(told)}; give {', '.join(needed)}, and as you like "
                f"{', '.join(known[3:])}"
            )
        return cls(**{"id": f"pair {index}", **values})

    def sample(self) -> Sample:
        """Return it as a sample with both pictures read.

        Raises:
            InputError: A value is of a wrong type or form.
            DataError: The mask is broken or of another size than the image.
            MediaError: A file is missing or no image.
        """
        if not isinstance(self.question, str) or not self.question.strip():
            raise InputError(f"{self.id}: question {self.question!r}; give a text, not blank")
        image = read_picture(self.image)
        pair = read_pair(
            image, self.reconstruction, self.mask, self.image_box, self.reconstruction_box
        )
        return Sample(str(self.id), (Turn("user", (0, self.question)),), (image,), pair=pair)


def read_pair(
    image: Image.Image,
    reconstruction: Any,
    mask: Any = None,
    image_box: Sequence[float] | None = None,
    reconstruction_box: Sequence[float] | None = None,
) -> Pair:
    """Read what completes an image; arguments as in `PairRequest`.

    Raises:
        InputError: A value is of a wrong type or form.
        DataError: The mask is broken or of another size than the image.
        MediaError: A file is missing or no image.
    """
    hidden = None
    if mask is not None:
        pixels = read_mask(_mask_source(mask), image.height, image.width, "mask", may_be_empty=True)
        hidden = ArrayMask(pixels, "mask")
    return Pair(
        reconstruction=read_picture(reconstruction, "reconstruction"),
        hidden=hidden,
        image_box=_box(image_box, "image_box"),
        reconstruction_box=_box(reconstruction_box, "reconstruction_box"),
    )


def _mask_source(mask: Any) -> MaskSource:
    if isinstance(mask, str | Path):
        return PngMask(local_path(mask))
    if isinstance(mask, Image.Image):
        return PictureMask(mask)
    if not isinstance(mask, np.ndarray):
        raise InputError(
            f"mask is of type {type(mask).__name__}; allowed: the path of a PNG, a PIL image, or "
            "an array bool (height, width)"
        )
    if mask.dtype != np.bool_ or mask.ndim != 2:
        raise InputError(
            f"mask is an array {mask.dtype} {mask.shape}; give bool (height, width), True where "
            "the image is hidden, or a picture in which that is white"
        )
    return ArrayMask(mask, "mask")


def _box(values: Any, name: str) -> Box | None:
    if values is None:
        return None
    sides = list(values) if isinstance(values, Sequence | np.ndarray) else []
    numbers = [float(side) for side in sides if isinstance(side, int | float | np.number)]
    if len(sides) != 4 or len(numbers) != 4 or not np.isfinite(numbers).all():
        raise InputError(
            f"{name} {values!r}; give [left, top, right, bottom] in the pixels of its picture"
        )
    left, top, right, bottom = numbers
    return left, top, right, bottom
