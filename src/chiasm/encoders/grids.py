"""Pure steps around a tower: grouping by size, patches of pixels, cells of patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor


def group_by_shape(images: Sequence[Tensor]) -> list[list[int]]:
    """Return the positions of images of equal shape, groups and members in order of appearance."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(tuple(image.shape), []).append(index)
    return list(groups.values())


def to_patches(pixels: Tensor, patch: int) -> Tensor:
    """Cut pixels into flat patches, as NaFlex towers read them.

    Args:
        pixels: float (B, C, rows * patch, columns * patch).
        patch: Side of a patch in pixels.

    Returns:
        float (B, rows * columns, patch * patch * C), patches row by row, channels innermost.
    """
    batch, channels, height, width = pixels.shape
    cut = pixels.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch * patch * channels)


def pool_cells(
    tokens: Tensor, grid: tuple[int, int], side: int, pooling: Literal["mean", "unshuffle"]
) -> Tensor:
    """Make one token of each square of `side` x `side` patches.

    Args:
        tokens: float (B, rows * columns, D), patches row by row.
        grid: (rows, columns) of patches, multiples of `side`.
        side: Patches along a side of a cell.
        pooling: `mean`, or `unshuffle`: the cell's patches row by row along the width.

    Returns:
        float (B, rows * columns / side**2, D or D * side**2).
    """
    if side == 1:
        return tokens
    batch, _, width = tokens.shape
    rows, columns = grid
    cut = tokens.reshape(batch, rows // side, side, columns // side, side, width)
    cells = cut.transpose(2, 3).reshape(batch, -1, side * side, width)
    return cells.mean(dim=2) if pooling == "mean" else cells.flatten(2)
