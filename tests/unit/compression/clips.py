"""Small clips with random features, padded to one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chiasm.core.grid import ImageGeometry
from chiasm.core.tokens import VisualTokens

CELL = 8


def grid(rows: int, columns: int) -> ImageGeometry:
    """A picture of whole cells at its own size."""
    size = rows * CELL, columns * CELL
    return ImageGeometry.from_resize(size, size, (CELL, CELL))


def clip_tokens(
    clips: Sequence[tuple[int, int, int]],
    width: int = 7,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> VisualTokens:
    """Clips of (frames, rows, columns), two seconds a frame; padding is not a number."""
    generator = torch.Generator().manual_seed(seed)
    geometries = [grid(rows, columns) for _, rows, columns in clips]
    counts = [frames * rows * columns for frames, rows, columns in clips]
    mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    features = torch.full((*mask.shape, width), torch.nan, dtype=dtype)
    cells, times = torch.full((*mask.shape, 4), torch.nan), torch.full(mask.shape, torch.nan)
    for row, ((frames, _, _), geometry, count) in enumerate(
        zip(clips, geometries, counts, strict=True)
    ):
        features[row, :count] = torch.randn(count, width, generator=generator, dtype=dtype)
        cells[row, :count] = geometry.cell_boxes().repeat(frames, 1)
        times[row, :count] = 2.0 * torch.arange(frames).repeat_interleave(geometry.count)
    return VisualTokens(
        features=features,
        cells=cells,
        sizes=mask.long(),
        sources=torch.where(mask, torch.arange(mask.shape[1]), -1),
        mask=mask,
        times=times,
        geometries=tuple(geometries),
    )


def row_of(tokens: VisualTokens, row: int) -> VisualTokens:
    """One row of a batch without its padding."""
    real, original = tokens.mask[row], tokens.sources[row] >= 0

    def cut(values: Tensor) -> Tensor:
        return values[row, real][None]

    return VisualTokens(
        features=cut(tokens.features),
        cells=cut(tokens.cells),
        sizes=cut(tokens.sizes),
        sources=tokens.sources[row, original][None],
        mask=cut(tokens.mask),
        times=cut(tokens.times),
        geometries=(tokens.geometries[row],),
    )


def assert_same(found: VisualTokens, wanted: VisualTokens, tolerance: float = 0.0) -> None:
    """Compare the real tokens of one row each; 0 asks for the same bits."""
    found, wanted = row_of(found, 0), row_of(wanted, 0)
    for name in ("features", "cells", "times"):
        first, second = getattr(found, name), getattr(wanted, name)
        torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance, msg=name)
    assert torch.equal(found.sizes, wanted.sizes)
    assert torch.equal(found.sources, wanted.sources)
    assert found.geometries == wanted.geometries


def conserves(found: VisualTokens, before: VisualTokens) -> bool:
    """Whether sizes, sources and mask of every row tell of all original tokens, none twice."""
    for row in range(len(before.geometries)):
        count = int(found.mask[row].sum())
        held = found.sources[row][before.sources[row] >= 0]
        sizes = torch.bincount(held, minlength=count)
        told = found.sizes[row]
        if not (
            torch.equal(found.sources[row] < 0, before.sources[row] < 0)
            and torch.equal(told[:count], sizes)
            and not told[count:].any()
            and torch.equal(found.mask[row], torch.arange(found.mask.shape[1]) < count)
            and int(told.sum()) == int(before.sizes[row].sum())
        ):
            return False
    return True
