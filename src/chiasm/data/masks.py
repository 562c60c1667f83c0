"""Where the pixels of a phrase come from: arrays, run lengths, polygons, PNG files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chiasm.core.errors import DataError, MediaError
from chiasm.core.samples import MaskSource


@dataclass(frozen=True, eq=False)
class ArrayMask:
    """A mask in memory.

    Attributes:
        array: bool (H, W) in original pixels.
        where: What to call it in messages.
    """

    array: NDArray[np.bool_]
    where: str = "mask"

    def read(self) -> NDArray[np.bool_]:
        """Return bool (H, W).

        Raises:
            DataError: The array is not bool or has not two axes.
        """
        if self.array.dtype != np.bool_ or self.array.ndim != 2:
            raise DataError(
                f"{self.where}: array {self.array.dtype} {self.array.shape}; a mask is bool "
                "(height, width), compare scores with a threshold first"
            )
        return self.array


def read_mask(source: MaskSource, height: int, width: int, name: str) -> NDArray[np.bool_]:
    """Read the mask of a phrase and check it against its image.

    Args:
        source: Where the pixels come from.
        height: Of the image, in original pixels.
        width: Of the image.
        name: What to call the phrase in messages.

    Returns:
        bool (height, width) with at least one pixel set.

    Raises:
        DataError: The mask cannot be read, is of another size than its image, or is empty.
        MediaError: A file of it is missing or no image.
    """
    try:
        mask = source.read()
    except MediaError as error:
        raise MediaError(f"{name}: {error}") from error
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    if mask.shape != (height, width):
        raise DataError(
            f"{name}: mask of {' x '.join(map(str, mask.shape))} pixels (height x width), its "
            f"image has {height} x {width}; give the mask in the pixels of the original image"
        )
    if not mask.any():
        raise DataError(
            f"{name}: mask is empty, none of its {height} x {width} pixels is set; correct the "
            "annotation, or leave the phrase out"
        )
    return mask
