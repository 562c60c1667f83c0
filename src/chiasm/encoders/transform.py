"""Preprocessing of an extra encoder: the host's view of an image, on the encoder's own pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from chiasm.core.grid import ImageGeometry

RESAMPLING: dict[str, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
"""Names of the resampling filters; both widen with the shrink factor, so they do not alias."""

_ROUNDING = 1e-3
"""Original pixels. A view that leaves the image by less is rounding of the geometry's scale."""


@dataclass(frozen=True)
class GridTransform:
    """Resizes what the host sees to whole patches, one square of patches a host cell.

    The area is exactly `ImageGeometry.view_box`: a host that crops makes the encoder see the same
    crop, a host that pads makes it see the same border, filled with the encoder's own mean colour
    (which normalises to zero). So patch (r, c) and host cell (r, c) show the same piece of image.

    Attributes:
        patch: Side of the encoder's patch in pixels.
        oversample: Patches along each side of a host cell.
        mean: Mean of each channel in [0, 1], RGB.
        deviation: Standard deviation of each channel in [0, 1], RGB.
        resampling: Key of `RESAMPLING`.
    """

    patch: int
    oversample: int
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    resampling: str

    def size(self, geometry: ImageGeometry) -> tuple[int, int]:
        """Return (height, width) in pixels of the prepared image."""
        side = self.patch * self.oversample
        return geometry.rows * side, geometry.columns * side

    def __call__(self, image: Image.Image, geometry: ImageGeometry) -> Tensor:
        """Prepare one image.

        Args:
            image: The original image, any mode; read as RGB.
            geometry: The host's geometry of this image.

        Returns:
            float32 (3, rows * patch * oversample, columns * patch * oversample), normalised.
        """
        height, width = self.size(geometry)
        canvas, box = self._view(image.convert("RGB"), geometry)
        resized = canvas.resize((width, height), RESAMPLING[self.resampling], box=box)
        pixels = torch.from_numpy(np.array(resized, dtype=np.float32)).permute(2, 0, 1) / 255
        mean, deviation = torch.tensor(self.mean), torch.tensor(self.deviation)
        return (pixels - mean[:, None, None]) / deviation[:, None, None]

    def _view(
        self, image: Image.Image, geometry: ImageGeometry
    ) -> tuple[Image.Image, tuple[float, float, float, float]]:
        """Return an image that holds the whole view, and the view's box in it."""
        left, top, right, bottom = geometry.view_box()
        width, height = image.size
        # Whole pixels to add at each side, so that the picture itself is not resampled twice.
        before_x, before_y = _border(-left), _border(-top)
        after_x, after_y = _border(right - width), _border(bottom - height)
        if before_x or before_y or after_x or after_y:
            colour = tuple(round(value * 255) for value in self.mean)
            canvas = Image.new(
                "RGB", (width + before_x + after_x, height + before_y + after_y), colour
            )
            canvas.paste(image, (before_x, before_y))
            image, (width, height) = canvas, canvas.size
        # The rounding that `_border` lets pass must not reach Pillow, which refuses such boxes.
        return image, (
            max(left + before_x, 0.0),
            max(top + before_y, 0.0),
            min(right + before_x, float(width)),
            min(bottom + before_y, float(height)),
        )


def _border(excess: float) -> int:
    """Return the whole pixels that cover `excess` pixels outside the image."""
    return 0 if excess <= _ROUNDING else int(-(-excess // 1))
