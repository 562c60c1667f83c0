"""What a model made of an image and its reconstruction, in pixels of the pictures as given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chiasm.core.batch import Batch, PairBatch
from chiasm.core.grid import ImageGeometry
from chiasm.core.samples import Box
from chiasm.core.sampling import view_to_image
from chiasm.fusion.pair_views import draw_on_image
from chiasm.models.pair_results import PairView

DIGITS = 4
"""Decimals of shares and pixels in JSON."""


@dataclass(frozen=True, eq=False)
class PairSight:
    """What a model of pairs made of one pair, before its decoder read it.

    Attributes:
        alpha: float32 (H, W) in [0, 1], the original's share of the blend at each pixel of the
            original; 1 where the model does not see the pixel.
        blended: uint8 (H, W, 3), the blend.
        aligned: uint8 (H, W, 3), the reconstruction where it was moved to; black where nothing of
            it lies.
        boxes: The box of the thing by picture (`original`, `reconstruction`), XYXY in the pixels of
            that picture. Whole views where nothing tells where the thing is.
        rules: Which rule gave each box: `given`, `mask`, `background` or `identity`; see
            `fusion.object_boxes`.
        hidden: bool (H, W), the pixels that were said to be hidden; None where nobody said.
        attention: Where the reconstruction was looked at, by who looked: `all` cells, those of the
            `thing`'s box, the `hidden` ones. Each float32 (rows, columns) over the original's
            cells, mean over looking cells and heads; sums to 1, or to less where some of it went
            to the half grid or was declined. Empty where no weights were asked for, and without a
            group that has no cell.
        view: The box that the cells cover, XYXY in pixels of the original.
    """

    alpha: NDArray[np.float32]
    blended: NDArray[np.uint8]
    aligned: NDArray[np.uint8]
    boxes: Mapping[str, Box]
    rules: Mapping[str, str]
    hidden: NDArray[np.bool_] | None
    view: Box
    attention: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def shares(self) -> dict[str, float]:
        """Mean of alpha over the `whole` image, the `thing`'s box and the `hidden` pixels."""
        height, width = self.alpha.shape
        left, top, right, bottom = self.boxes["original"]
        columns, rows = np.arange(width) + 0.5, np.arange(height) + 0.5
        inside = ((rows >= top) & (rows < bottom))[:, None] & (columns >= left) & (columns < right)
        groups = {"whole": np.ones_like(inside), "thing": inside}
        if self.hidden is not None:
            groups["hidden"] = self.hidden
        return {name: float(self.alpha[mask].mean()) for name, mask in groups.items() if mask.any()}

    def document(self) -> dict[str, Any]:
        """Return boxes, rules and mean shares in plain values, for JSON."""
        return {
            "boxes": {n: [round(side, DIGITS) for side in box] for n, box in self.boxes.items()},
            "rules": dict(self.rules),
            "alpha": {name: round(share, DIGITS) for name, share in self.shares.items()},
        }


def read_sights(view: PairView, batch: Batch, pairs: PairBatch) -> list[PairSight]:
    """Return what a model made of each pair of a batch.

    Args:
        view: What it made of the batch.
        batch: The batch.
        pairs: Its pairs.
    """
    return [_read_sight(view, batch.geometries[row], pairs, row) for row in range(len(pairs))]


def _read_sight(view: PairView, frame: ImageGeometry, pairs: PairBatch, row: int) -> PairSight:
    size = (frame.original_height, frame.original_width)
    alpha = view_to_image(view.alpha[row].float(), frame, size)[0]
    # Below 0 stands what the view does not show: there the original is as it was.
    alpha = torch.where(alpha < 0, 1.0, alpha)
    hidden = None
    if bool(pairs.hidden_known[row]):
        hidden = (view_to_image(pairs.hidden[row, None].float(), frame, size)[0] >= 0.5).cpu()
    frames = {"original": frame, "reconstruction": pairs.frames[row]}
    parts = dict(zip(frames, view.boxes[row].tolist(), strict=True))
    attention = (
        {} if view.attention is None else _maps(view.attention[row], view, frame, pairs, row)
    )
    return PairSight(
        alpha=alpha.cpu().numpy(),
        blended=draw_on_image(2 * view.blended[row].float() - 1, frame),
        aligned=draw_on_image(2 * view.aligned[row].float() - 1, frame),
        boxes={name: _in_pixels(parts[name], frames[name]) for name in frames},
        rules=dict(zip(frames, view.rules[row], strict=True)),
        hidden=None if hidden is None else hidden.numpy(),
        view=frame.view_box(),
        attention=attention,
    )


def _in_pixels(parts: list[float], frame: ImageGeometry) -> Box:
    """Carry a box from parts of a view to pixels, not beyond the picture."""
    left, top, right, bottom = frame.view_box()
    across, down = (right - left), (bottom - top)
    width, height = float(frame.original_width), float(frame.original_height)
    return (
        max(0.0, left + parts[0] * across),
        max(0.0, top + parts[1] * down),
        min(width, left + parts[2] * across),
        min(height, top + parts[3] * down),
    )


def _maps(
    weights: Tensor, view: PairView, frame: ImageGeometry, pairs: PairBatch, row: int
) -> dict[str, NDArray[np.float32]]:
    """Return mean weights over groups of looking cells; weights float (heads, cells, cells)."""
    grid = (frame.rows, frame.columns)
    left, top, right, bottom = view.boxes[row, 0].tolist()
    x = (torch.arange(frame.columns) + 0.5) / frame.columns
    y = ((torch.arange(frame.rows) + 0.5) / frame.rows)[:, None]
    groups = {
        "all": torch.ones(grid, dtype=torch.bool),
        "thing": (x >= left) & (x < right) & (y >= top) & (y < bottom),
    }
    if bool(pairs.hidden_known[row]):
        shares = torch.nn.functional.adaptive_avg_pool2d(pairs.hidden[row, None].float(), grid)
        groups["hidden"] = (shares[0] >= 0.5).cpu()
    mean = weights.float().mean(dim=0).cpu()
    return {
        name: mean[cells.flatten()].mean(dim=0).reshape(grid).numpy()
        for name, cells in groups.items()
        if bool(cells.any())
    }
