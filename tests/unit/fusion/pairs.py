"""Pairs for tests: coloured rectangles on plain or noisy backgrounds, as a batch of pairs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chiasm.core.batch import PairBatch
from chiasm.core.grid import ImageGeometry

SIDE = 20
Cells = tuple[int, int, int, int]
"""XYXY in whole pixels of a view."""


def plain(box: Cells | None, background: float = 0.0, colour: float = 0.8) -> Tensor:
    """float (3, SIDE, SIDE): a rectangle on a plain background."""
    view = torch.full((3, SIDE, SIDE), background)
    if box is not None:
        left, top, right, bottom = box
        view[:, top:bottom, left:right] = colour
    return view


def photo(seed: int = 0) -> Tensor:
    """float (3, SIDE, SIDE): noise everywhere, as an original that has no plain background."""
    return torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def parts(box: Cells) -> list[float]:
    return [value / SIDE for value in box]


def pair_batch(
    original: Sequence[Tensor],
    reconstruction: Sequence[Tensor],
    *,
    hidden: Sequence[Cells | None] = (),
    boxes: Sequence[tuple[Cells | None, Cells | None]] = (),
    frames: Sequence[ImageGeometry] = (),
) -> PairBatch:
    count = len(original)
    mask = torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    known = torch.zeros(count, dtype=torch.bool)
    for row, box in enumerate(hidden):
        if box is not None:
            left, top, right, bottom = box
            mask[row, top:bottom, left:right] = True
            known[row] = True
    given = torch.full((count, 2, 4), float("nan"))
    for row, both in enumerate(boxes):
        for picture, box in enumerate(both):
            if box is not None:
                given[row, picture] = torch.tensor(parts(box))
    return PairBatch(
        original=torch.stack(list(original)),
        reconstruction=torch.stack(list(reconstruction)),
        hidden=mask,
        hidden_known=known,
        boxes=given,
        target=torch.zeros(count, 3, 2, 2),
        target_known=torch.zeros(count, dtype=torch.bool),
        frames=tuple(frames),
    )
