"""The resolution ceiling: how good a mask can be that was seen through a grid of cells.

A head that reads one value a cell cannot know where inside the cell an edge runs. The true mask,
averaged into the same cells and brought back as the head's own scores are, shows how much of the
error the grid alone makes. It is a yardstick, not a bound: a head that reads many maps may place an
edge better than the average of a cell does.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from chiasm.core.errors import GeometryError
from chiasm.core.grid import ImageGeometry
from chiasm.core.sampling import view_to_image

LEAST = 64
"""The mask head enlarges smaller grids until their longer side has this many places."""

SUREST = 1e-3
"""Shares are held this far from 0 and 1 before they become logits."""


def cell_shares(mask: Tensor, geometry: ImageGeometry) -> Tensor:
    """Average a mask into cells, exactly, with parts of pixels counted as parts.

    Args:
        mask: bool or float (H, W) in original pixels.
        geometry: The cells. What a cell covers beyond the image counts as 0.

    Returns:
        float64 (rows, columns), each the mean of `mask` over its cell.

    Raises:
        GeometryError: The mask has not the size of the geometry's image.
    """
    size = (geometry.original_height, geometry.original_width)
    if tuple(mask.shape) != size:
        raise GeometryError(
            f"a mask of {tuple(mask.shape)} pixels for cells of an image of {size}; give the mask "
            "in original pixels"
        )
    boxes = geometry.cell_boxes().double()
    rows = boxes.view(geometry.rows, geometry.columns, 4)[:, 0, 1::2]
    columns = boxes.view(geometry.rows, geometry.columns, 4)[0, :, 0::2]
    down, across = _weights(rows, size[0]), _weights(columns, size[1])
    return down @ mask.cpu().double() @ across.T


def through_cells(mask: Tensor, geometry: ImageGeometry, least: int = LEAST) -> Tensor:
    """Carry a mask into cells and back to the image, on the way that the mask head's scores take.

    Args:
        mask: bool (H, W) in original pixels.
        geometry: The cells.
        least: As `heads.mask_unet` enlarges.

    Returns:
        float32 (h, w), logits over the whole original image; what no cell shows is below 0.
    """
    shares = cell_shares(mask, geometry).float()
    scale = max(1.0, least / max(shares.shape))
    size = [max(1, round(side * scale)) for side in shares.shape]
    grown = F.interpolate(shares[None, None], size, mode="bilinear", align_corners=False)[0]
    return view_to_image(torch.logit(grown.clamp(SUREST, 1 - SUREST)), geometry)[0]


def _weights(cells: Tensor, length: int) -> Tensor:
    """Return float64 (cells, length): how much of each cell each pixel along one axis makes up.

    Args:
        cells: float64 (cells, 2), first and last edge of each in pixels.
        length: Number of pixels.
    """
    starts = torch.arange(length, dtype=torch.float64)
    first, last = cells[:, :1], cells[:, 1:]
    shared = torch.minimum(last, starts + 1) - torch.maximum(first, starts)
    return shared.clamp_min(0) / (last - first)
