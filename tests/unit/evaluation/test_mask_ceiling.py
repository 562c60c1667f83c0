"""The ceiling: exact averages in cells, and a way back that loses only what cells cannot hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.core.errors import GeometryError
from chiasm.core.grid import ImageGeometry
from chiasm.evaluation.mask_ceiling import cell_shares, through_cells
from chiasm.evaluation.mask_overlap import overlap, to_pixels


def random_mask(height: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((height, width), generator=generator) > 0.6


def sampled_shares(mask: torch.Tensor, geometry: ImageGeometry, fine: int) -> np.ndarray:
    """The same averages by reading `fine` x `fine` points of each cell."""
    shares = np.zeros((geometry.rows, geometry.columns))
    inside = (torch.arange(fine, dtype=torch.float64) + 0.5) / fine
    for row in range(geometry.rows):
        for column in range(geometry.columns):
            y, x = torch.meshgrid(row + inside, column + inside, indexing="ij")
            points = geometry.to_pixels(torch.stack([x, y], -1)).floor().long()
            within = (points[..., 0] >= 0) & (points[..., 0] < mask.shape[1])
            within &= (points[..., 1] >= 0) & (points[..., 1] < mask.shape[0])
            values = mask[
                points[..., 1].clamp(0, mask.shape[0] - 1),
                points[..., 0].clamp(0, mask.shape[1] - 1),
            ]
            shares[row, column] = (values & within).double().mean()
    return shares


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(5, 41),
    width=st.integers(5, 41),
    rows=st.integers(1, 7),
    columns=st.integers(1, 7),
    offset=st.floats(-3, 9),
    seed=st.integers(0, 99),
)
def test_shares_are_the_mean_over_each_cell(
    height: int, width: int, rows: int, columns: int, offset: float, seed: int
) -> None:
    geometry = ImageGeometry(height, width, 1.3, 0.9, offset, 2.5, 7.0, 5.0, rows, columns)
    mask = random_mask(height, width, seed)
    shares = cell_shares(mask, geometry)
    # 61 x 61 points read a cell to about a hundredth.
    assert np.abs(shares.numpy() - sampled_shares(mask, geometry, 61)).max() < 0.02


def test_cells_of_one_pixel_keep_everything() -> None:
    mask = random_mask(71, 67, 3)
    geometry = ImageGeometry.from_resize((71, 67), (71, 67), (1, 1))
    assert torch.equal(cell_shares(mask, geometry).bool(), mask)
    assert np.array_equal(to_pixels(through_cells(mask, geometry), (71, 67)), mask.numpy())


def test_larger_cells_lose_more() -> None:
    rows, columns = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    disc = ((rows - 47) ** 2 + (columns - 51) ** 2) < 30**2
    found = []
    for cell in (2, 6, 12, 24, 48):
        geometry = ImageGeometry.from_resize((96, 96), (96, 96), (cell, cell))
        mask = to_pixels(through_cells(disc, geometry), (96, 96))
        found.append(overlap(mask, disc.numpy()).iou)
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.97 and found[2] > 0.9 and found[-1] < 0.85


def test_padding_and_crops_keep_their_places() -> None:
    """A square view around a wide image: what lies in the middle comes back to the middle."""
    mask = torch.zeros(40, 80, dtype=torch.bool)
    mask[10:30, 30:60] = True
    padded = ImageGeometry(40, 80, 1.0, 1.0, 0.0, 20.0, 5.0, 5.0, 16, 16)
    assert cell_shares(mask, padded).sum() * 25 == mask.sum()
    back = to_pixels(through_cells(mask, padded), (40, 80))
    assert overlap(back, mask.numpy()).iou > 0.95
    cropped = ImageGeometry(40, 80, 1.0, 1.0, -20.0, 0.0, 5.0, 5.0, 8, 8)
    back = to_pixels(through_cells(torch.ones(40, 80, dtype=torch.bool), cropped), (40, 80))
    assert back[:, 22:58].all() and not back[:, :18].any() and not back[:, 62:].any()


def test_a_mask_of_another_size_is_named() -> None:
    geometry = ImageGeometry.from_resize((40, 80), (40, 80), (5, 5))
    with pytest.raises(GeometryError, match=r"a mask of \(80, 40\) pixels for cells of an image"):
        cell_shares(torch.zeros(80, 40, dtype=torch.bool), geometry)
