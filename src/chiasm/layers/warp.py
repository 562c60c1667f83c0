"""Maps moved by an affine map of their view, differentiably.

Places are parts of the view's side: 0 is the left or top *edge* of the first pixel and 1 the right
or bottom edge of the last, so the middle of pixel j of W stands at (j + 0.5) / W. That is the
convention `align_corners=False`. One affine map then means the same movement for a picture of 448
pixels and for its 32 features. Under `align_corners=True`, where 0 and 1 are the *middles* of the
outer pixels, the same box would move pictures and features by different amounts, up to half a cell.

The sampling is that of spatial transformers (Jaderberg et al., 2015, arXiv:1506.02025, eq. 1 and
5): each place of the result asks the inverse map where it comes from, and reads bilinearly.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chiasm.core.errors import GeometryError

_SMALLEST = 1e-6
"""Area, as a part of the view, below which a map counts as flat."""


def box_affine(source: Tensor, target: Tensor) -> Tensor:
    """Return the maps that carry boxes onto boxes: a scale and a shift along each axis.

        x' = (w_target / w_source) * (x - x_source) + x_target, and y alike

    Args:
        source: float (B, 4), XYXY as parts of a view's side in [0, 1].
        target: float (B, 4), where each source box should lie.

    Returns:
        float32 (B, 2, 3). Rows whose boxes are equal hold the identity exactly.

    Raises:
        GeometryError: Shapes disagree, or a box has no area or is not a number.
    """
    if source.dim() != 2 or source.shape[1] != 4 or source.shape != target.shape:
        raise GeometryError(
            f"box_affine: boxes of shapes {tuple(source.shape)} and {tuple(target.shape)}; give "
            "two of (B, 4), XYXY as parts of the view's side"
        )
    source, target = source.float(), target.float()
    for name, boxes in (("source", source), ("target", target)):
        sides = boxes[:, 2:] - boxes[:, :2]
        # Written so that a side that is not a number is bad too.
        bad = ~(sides > 0).all(dim=1)
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            raise GeometryError(
                f"box_affine: {name} box {boxes[row].tolist()} of row {row} has no area; give "
                "left < right and top < bottom, and the whole view [0, 0, 1, 1] where no box is "
                "known"
            )
    scale = (target[:, 2:] - target[:, :2]) / (source[:, 2:] - source[:, :2])
    shift = target[:, :2] - scale * source[:, :2]
    return torch.cat([torch.diag_embed(scale), shift[:, :, None]], dim=2)


def warp(maps: Tensor, affine: Tensor) -> tuple[Tensor, Tensor]:
    """Move each row's maps by its affine map.

    Args:
        maps: float (B, C, H, W) of any H and W, which cover the view.
        affine: float (B, 2, 3), from places of `maps` to places of the result, as parts of the
            view's side (see `box_affine`).

    Returns:
        float (B, C, H, W) of the type of `maps`, bilinear inside and zero where nothing of `maps`
        lies, with gradient to `maps`; and the coverage, bool (B, 1, H, W), True where the middle
        of the pixel comes from inside the view. Rows under the identity are returned bit for bit.
        Read in float32 at least, whatever the type of `maps`.

    Raises:
        GeometryError: Shapes disagree, or a map is flat and so has no inverse.
    """
    if maps.dim() != 4 or affine.shape != (len(maps), 2, 3):
        raise GeometryError(
            f"warp: maps of shape {tuple(maps.shape)} and affine maps of shape "
            f"{tuple(affine.shape)}; give (B, C, H, W) and (B, 2, 3)"
        )
    wide = maps if maps.dtype == torch.float64 else maps.float()
    places = _origins(affine.to(wide), maps.shape[2], maps.shape[3])
    coverage = ((places >= 0) & (places <= 1)).all(dim=-1)[:, None]
    # "border" reads the outer half pixel whole; with "zeros" it would fade into black.
    moved = nn.functional.grid_sample(
        wide, 2 * places - 1, mode="bilinear", padding_mode="border", align_corners=False
    )
    moved = moved.masked_fill(~coverage, 0.0).to(maps.dtype)
    still = (affine == torch.eye(2, 3).to(affine)).flatten(1).all(dim=1)
    return torch.where(still[:, None, None, None], maps, moved), coverage


def _origins(affine: Tensor, height: int, width: int) -> Tensor:
    """Return where each pixel of the result comes from: (B, H, W, 2), X and Y as parts."""
    matrix, shift = affine[:, :, :2], affine[:, :, 2]
    area = matrix[:, 0, 0] * matrix[:, 1, 1] - matrix[:, 0, 1] * matrix[:, 1, 0]
    # Written so that an area that is not a number is bad too.
    bad = ~(area.abs() > _SMALLEST)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise GeometryError(
            f"warp: the affine map {affine[row].tolist()} of row {row} is flat, so no place of "
            "the result has an origin; give a map whose scales are not zero"
        )
    across = (torch.arange(width).to(affine) + 0.5) / width
    down = (torch.arange(height).to(affine) + 0.5) / height
    x = across - shift[:, 0, None, None]
    y = down[:, None] - shift[:, 1, None, None]
    area = area[:, None, None]
    a, b = matrix[:, 0, 0, None, None], matrix[:, 0, 1, None, None]
    c, d = matrix[:, 1, 0, None, None], matrix[:, 1, 1, None, None]
    return torch.stack([(d * x - b * y) / area, (a * y - c * x) / area], dim=-1)
