"""What importance is measured on, and how pixels become cells and magnitudes become [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.grid import ImageGeometry


@dataclass(frozen=True)
class ClipView:
    """T frames of one clip, or one image, as far as they are known; signals read what they need.

    Attributes:
        geometry: The grid of cells of every frame.
        frames: uint8 (T, height, width, 3) in [0, 255], RGB. They show the whole original image, at
            its size or any other.
        features: float (T, cells, D), one token a cell.
        attention: float (T, ..., cells), attention rows over the cells of a frame, not negative:
            any number of heads and queries in between.
    """

    geometry: ImageGeometry
    frames: Tensor | None = None
    features: Tensor | None = None
    attention: Tensor | None = None

    def __post_init__(self) -> None:
        if self.frames is not None:
            shape = tuple(self.frames.shape)
            if self.frames.dtype != torch.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
                raise InputError(
                    f"frames of shape {shape} and type {self.frames.dtype}; give uint8 "
                    "(frames, height, width, 3) in [0, 255]"
                )
        count = self.geometry.count
        if self.features is not None and (
            self.features.dim() != 3 or self.features.shape[1] != count
        ):
            raise InputError(
                f"features of shape {tuple(self.features.shape)} for {count} cells; give float "
                "(frames, cells, width)"
            )
        if self.attention is not None:
            shape = tuple(self.attention.shape)
            if len(shape) < 2 or shape[-1] != count:
                raise InputError(
                    f"attention of shape {shape} for {count} cells; give float (frames, ..., cells)"
                )
        counts = {
            name: len(value)
            for name, value in (
                ("frames", self.frames),
                ("features", self.features),
                ("attention", self.attention),
            )
            if value is not None
        }
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{name}: {number}" for name, number in counts.items())
            raise InputError(f"a clip has one number of frames; found {told}")

    def pictures(self, asker: str) -> Tensor:
        """Return the frames.

        Raises:
            InputError: There are none; the message names `asker`, the signal that needs them.
        """
        if self.frames is None:
            raise InputError(
                f"{asker} needs the frames of the clip; give uint8 (frames, height, width, 3)"
            )
        return self.frames


def to_cells(values: Tensor, geometry: ImageGeometry) -> Tensor:
    """Average maps over the cells of a grid, by area.

    Args:
        values: float (T, height, width) over the whole original image, of any size.
        geometry: The grid.

    Returns:
        float (T, rows, columns): the mean over that part of each cell which lies in the image; 0
        for cells outside of it.
    """
    down, across = _cell_shares(geometry, values.shape[1], values.shape[2])
    return down.to(values) @ values @ across.to(values).T


@lru_cache(maxsize=16)
def _cell_shares(geometry: ImageGeometry, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the shares of rows of pixels in rows of cells, and of columns in columns."""
    left, top, right, bottom = geometry.view_box()
    size = geometry.original_height, geometry.original_width
    down = _overlaps((top / size[0], bottom / size[0]), geometry.rows, height)
    return down, _overlaps((left / size[1], right / size[1]), geometry.columns, width)


def _overlaps(span: tuple[float, float], cells: int, pixels: int) -> Tensor:
    """Return float64 (cells, pixels), the share of each pixel in the mean of each cell.

    Args:
        span: Where the cells begin and end along this axis, in parts of the image.
        cells: Number of cells.
        pixels: Number of pixels.
    """
    edges = torch.linspace(span[0] * pixels, span[1] * pixels, cells + 1, dtype=torch.float64)
    # Places that differ from a pixel's edge by rounding alone lie on it.
    edges = (edges * 2**20).round() / 2**20
    near = torch.arange(pixels, dtype=torch.float64)
    inside = torch.minimum(edges[1:, None], near + 1) - torch.maximum(edges[:-1, None], near)
    inside = inside.clamp(min=0)
    total = inside.sum(1, keepdim=True)
    return torch.where(total > 0, inside / total.clamp(min=1e-12), 0)


def grey(frames: Tensor) -> Tensor:
    """Return the luma of frames (ITU-R BT.601): uint8 (..., 3) to float32 (...) in [0, 255]."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=frames.device)
    return frames.float() @ weights


def to_unit(magnitude: Tensor, percentile: float, floor: float) -> Tensor:
    """Scale magnitudes of one clip to [0, 1] by a robust maximum of all of them.

    Args:
        magnitude: float, not negative, of any shape.
        percentile: The maximum is this percentile, in (0, 100]; what lies above it becomes 1.
        floor: The smallest maximum, above 0: below it a clip counts as still, so that noise in a
            still clip does not become movement, and no movement at all becomes 0.

    Returns:
        float in [0, 1] of the same shape.
    """
    if magnitude.numel() == 0:
        return magnitude
    flat = magnitude.flatten().float()
    # The k-th value has no limit on its input's length, which quantile has.
    place = max(1, round(percentile / 100 * flat.numel()))
    robust = flat.kthvalue(place).values.clamp(min=floor)
    return (magnitude / robust).clamp(max=1)
