"""How Segment Anything sees an image: resized, then padded or stretched to a square; and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from chiasm.core.grid import ImageGeometry


@dataclass(frozen=True)
class SamTransform:
    """Prepares an image; an `EncoderTransform` that reads the whole image, whatever the host sees.

    Attributes:
        side: Height and width of the prepared image.
        mean: Mean of each channel in [0, 1], RGB.
        deviation: Standard deviation of each channel in [0, 1], RGB.
        stretch: Whether the image is stretched to the square (SAM 2). If not, its longer side
            becomes `side`, and zeros are added on the right or at the bottom (SAM).
    """

    side: int
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    stretch: bool

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return (height, width) of an image of `size` (height, width) before padding."""
        if self.stretch:
            return self.side, self.side
        scale = self.side / max(size)
        return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)

    def geometry(self, size: tuple[int, int], cells: int = 1) -> ImageGeometry:
        """Return where the prepared image lies in an image of `size` (height, width).

        Args:
            size: (height, width) of the original image.
            cells: Cells along each side of the prepared image.
        """
        height, width = self.resized(size)
        return ImageGeometry(
            original_height=size[0],
            original_width=size[1],
            scale_x=width / size[1],
            scale_y=height / size[0],
            offset_x=0.0,
            offset_y=0.0,
            cell_height=self.side / cells,
            cell_width=self.side / cells,
            rows=cells,
            columns=cells,
        )

    def __call__(self, image: Image.Image, geometry: ImageGeometry | None = None) -> Tensor:
        """Prepare one image.

        Args:
            image: The original image, any mode; read as RGB.
            geometry: The host's, not used.

        Returns:
            float32 (3, side, side), normalised; padding is 0.
        """
        height, width = self.resized((image.height, image.width))
        resized = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(resized, dtype=np.float32)).permute(2, 0, 1) / 255
        mean, deviation = torch.tensor(self.mean), torch.tensor(self.deviation)
        normal = (pixels - mean[:, None, None]) / deviation[:, None, None]
        return torch.nn.functional.pad(normal, (0, self.side - width, 0, self.side - height))
