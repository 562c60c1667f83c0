"""How cells stand in the text when a fusion makes several tokens of each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.grid import ImageGeometry
from chiasm.language.hosts.protocol import CellGrid


def cell_repeats(rows: Sequence[Tensor], tokens_per_cell: int) -> tuple[Tensor, ...]:
    """Return for each image int64 (cells,), all `tokens_per_cell`.

    Raises:
        InputError: An image's tokens are no whole number of cells.
    """
    for index, row in enumerate(rows):
        if row.shape[0] % tokens_per_cell:
            raise InputError(
                f"image {index}: {row.shape[0]} visual tokens with {tokens_per_cell} tokens a cell "
                "is no whole number of cells; the fusion must write equally many for each"
            )
    return tuple(
        torch.full(
            (row.shape[0] // tokens_per_cell,),
            tokens_per_cell,
            dtype=torch.long,
            device=row.device,
        )
        for row in rows
    )


def pad_cells(row: Tensor, tokens_per_cell: int) -> Tensor:
    """Give the first token of each cell its entry of `row`, and every other token zeros.

    Args:
        row: float (cells, D).
        tokens_per_cell: How many tokens stand for a cell.

    Returns:
        float (cells * tokens_per_cell, D).
    """
    if tokens_per_cell == 1:
        return row
    padded = row.new_zeros((row.shape[0], tokens_per_cell, row.shape[1]))
    padded[:, 0] = row
    return padded.flatten(0, 1)


def whole_grid(geometry: ImageGeometry, tokens_per_cell: int) -> tuple[CellGrid, ...]:
    """Return the one grid of a family whose image is written cell by cell and nothing else."""
    positions = torch.arange(geometry.count * tokens_per_cell)
    return (CellGrid(geometry, positions.reshape(geometry.count, tokens_per_cell)),)
