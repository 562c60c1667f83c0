"""Where the pixels of a phrase come from: arrays, run lengths, polygons, PNG files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chiasm.core.errors import DataError


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
