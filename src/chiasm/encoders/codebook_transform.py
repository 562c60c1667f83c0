"""How a codebook sees an image: padded to a square, resized, RGB in [-1, 1]."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from chiasm.core.grid import ImageGeometry
from chiasm.encoders.transform import GridTransform

_GREY = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class CodebookTransform:
    """Prepares an image; an `EncoderTransform` that shows what the host sees where it is asked to.

    Attributes:
        cells: Codes along each side of a picture.
        cell: Pixels along each side of a code's cell.
    """

    cells: int
    cell: int

    @property
    def side(self) -> int:
        """Height and width of the prepared image in pixels."""
        return self.cells * self.cell

    def geometry(self, size: tuple[int, int]) -> ImageGeometry:
        """Return where the codes lie in an image of `size` (height, width), shown whole.

        The longer side fills the square, and the image stands in its middle.
        """
        height, width = size
        scale = self.side / max(size)
        return ImageGeometry(
            original_height=height,
            original_width=width,
            scale_x=scale,
            scale_y=scale,
            offset_x=(self.side - width * scale) / 2,
            offset_y=(self.side - height * scale) / 2,
            cell_height=self.cell,
            cell_width=self.cell,
            rows=self.cells,
            columns=self.cells,
        )

    def over(self, geometry: ImageGeometry) -> ImageGeometry:
        """Return the codes' grid over exactly the view of another grid, stretched to the square."""
        left, top, right, bottom = geometry.view_box()
        scale_x, scale_y = self.side / (right - left), self.side / (bottom - top)
        return ImageGeometry(
            original_height=geometry.original_height,
            original_width=geometry.original_width,
            scale_x=scale_x,
            scale_y=scale_y,
            offset_x=-left * scale_x,
            offset_y=-top * scale_y,
            cell_height=self.cell,
            cell_width=self.cell,
            rows=self.cells,
            columns=self.cells,
        )

    def __call__(self, image: Image.Image, geometry: ImageGeometry | None = None) -> Tensor:
        """Prepare one image.

        Args:
            image: The original image, any mode; read as RGB.
            geometry: Any grid over the image, whose view is then what is shown; by default the
                whole image.

        Returns:
            float32 (3, side, side), RGB in [-1, 1]; padding is grey.
        """
        own = self.geometry((image.height, image.width)) if geometry is None else geometry
        if geometry is not None:
            own = self.over(geometry)
        draw = GridTransform(
            patch=self.cell, oversample=1, mean=_GREY, deviation=_GREY, resampling="bilinear"
        )
        return draw(image, own)
