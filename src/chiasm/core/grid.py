"""One invertible map from original pixels to resized pixels to patch cells, and back.

Frames. *Original* pixels are those of the file as the user sees it (after EXIF rotation). *Resized*
pixels are those of the tensor that an encoder reads, padding and cropping included. *Cells* are the
squares of resized pixels that one visual token stands for, counted row by row from the top left.

Coordinates are continuous: pixel (row r, column c) covers the square [c, c+1] x [r, r+1], so the
middle of the first pixel is (0.5, 0.5). Points are (X, Y), boxes are XYXY.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from chiasm.core.errors import GeometryError


@dataclass(frozen=True)
class ImageGeometry:
    """Where each cell of one encoded image lies in the original image.

    resized = original * scale + offset, separately for X and Y. A positive offset is padding on the
    left or top; a negative one is a crop.

    Attributes:
        original_height: Height of the original image in pixels.
        original_width: Width of the original image in pixels.
        scale_x: Resized pixels for one original pixel along X.
        scale_y: Resized pixels for one original pixel along Y.
        offset_x: Resized X of the original's left edge.
        offset_y: Resized Y of the original's top edge.
        cell_height: Height of a cell in resized pixels.
        cell_width: Width of a cell in resized pixels.
        rows: Cells from top to bottom.
        columns: Cells from left to right.
    """

    original_height: int
    original_width: int
    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    cell_height: float
    cell_width: float
    rows: int
    columns: int

    def __post_init__(self) -> None:
        positive = (
            self.original_height,
            self.original_width,
            self.scale_x,
            self.scale_y,
            self.cell_height,
            self.cell_width,
            self.rows,
            self.columns,
        )
        if min(positive) <= 0:
            raise GeometryError(
                f"image geometry {self} has a size or scale that is not positive; "
                "every size, scale and count must be greater than zero"
            )

    @classmethod
    def from_resize(
        cls, original: tuple[int, int], resized: tuple[int, int], cell: tuple[float, float]
    ) -> ImageGeometry:
        """Describe an image that was stretched to a size of whole cells.

        Args:
            original: (height, width) in original pixels.
            resized: (height, width) in resized pixels.
            cell: (height, width) of one cell in resized pixels.

        Raises:
            GeometryError: The resized size is no whole number of cells.
        """
        rows, columns = resized[0] / cell[0], resized[1] / cell[1]
        if rows != int(rows) or columns != int(columns):
            raise GeometryError(
                f"resized size {resized} is no whole number of cells of {cell}; "
                "resize to a multiple of the cell"
            )
        return cls(
            original_height=original[0],
            original_width=original[1],
            scale_x=resized[1] / original[1],
            scale_y=resized[0] / original[0],
            offset_x=0.0,
            offset_y=0.0,
            cell_height=cell[0],
            cell_width=cell[1],
            rows=int(rows),
            columns=int(columns),
        )

    @property
    def count(self) -> int:
        """Number of cells, which is the number of visual tokens before compression."""
        return self.rows * self.columns

    def to_cells(self, points: Tensor) -> Tensor:
        """Map points from original pixels to cell units.

        Args:
            points: float (..., 2), (X, Y) in original pixels.

        Returns:
            float (..., 2), (column, row) in cells; the whole part names the cell.
        """
        return (points * self._scale(points) + self._offset(points)) / self._cell(points)

    def to_pixels(self, points: Tensor) -> Tensor:
        """Map points from cell units back to original pixels; the inverse of `to_cells`."""
        return (points * self._cell(points) - self._offset(points)) / self._scale(points)

    def cell_boxes(self) -> Tensor:
        """Return the box of each cell.

        Returns:
            float32 (rows * columns, 4), XYXY in original pixels, row by row. Cells on padding lie
            outside the image.
        """
        row = torch.arange(self.rows, dtype=torch.float64).repeat_interleave(self.columns)
        column = torch.arange(self.columns, dtype=torch.float64).repeat(self.rows)
        near = self.to_pixels(torch.stack([column, row], dim=-1))
        far = self.to_pixels(torch.stack([column + 1, row + 1], dim=-1))
        return torch.cat([near, far], dim=-1).float()

    def view_box(self) -> tuple[float, float, float, float]:
        """Return the box that all cells together cover, XYXY in original pixels."""
        corners = torch.tensor([[0.0, 0.0], [self.columns, self.rows]], dtype=torch.float64)
        (left, top), (right, bottom) = self.to_pixels(corners).tolist()
        return left, top, right, bottom

    def _scale(self, like: Tensor) -> Tensor:
        return like.new_tensor([self.scale_x, self.scale_y])

    def _offset(self, like: Tensor) -> Tensor:
        return like.new_tensor([self.offset_x, self.offset_y])

    def _cell(self, like: Tensor) -> Tensor:
        return like.new_tensor([self.cell_width, self.cell_height])
