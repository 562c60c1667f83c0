"""Prompts for a mask as users and coarse heads would give them, drawn from its truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import nn

from chiasm.core.config import Config

Bool = NDArray[np.bool_]
Float = NDArray[np.float32]

KINDS: dict[str, tuple[str, ...]] = {
    "mask": ("mask",),
    "box": ("box",),
    "points": ("points",),
    "mask_and_box": ("mask", "box"),
    "box_and_points": ("box", "points"),
    "all": ("mask", "box", "points"),
}
"""Combinations of prompts by name."""


class PromptDrawing(Config):
    """How prompts are drawn. Ranges include both ends, and every draw is uniform unless said.

    A coarse mask is drawn as a mask head over the cells of a language model makes it: the truth
    averaged over cells, moved a little, partly lost, leaking into a neighbour, with noise, brought
    to `side` values by linear interpolation, and scaled to logits.

    Attributes:
        shares: How often each combination of `KINDS` is drawn, in proportion.
        side: Height and width of a coarse mask.
        cells: Cells along a side of the coarse mask.
        shift: Standard deviation in cells of how far it is moved, along each axis.
        lost: Most share of cells that show nothing.
        leak: How often it leaks into another thing of the picture, if there is one.
        noise: Largest standard deviation of the noise of a cell, where a full cell is 1.
        gain: Range of the factor from a cell's share to logits, drawn evenly in its logarithm.
        threshold: Range of the share that becomes logit 0.
        box_shift: Standard deviation of how far each edge of a box is moved, as a part of the
            box's side.
        points: Most points.
    """

    shares: dict[str, float] = Field(
        default={
            "mask_and_box": 5.0,
            "mask": 2.0,
            "box": 1.0,
            "points": 1.0,
            "box_and_points": 0.5,
            "all": 0.5,
        }
    )
    side: int = Field(default=64, gt=1)
    cells: tuple[int, int] = (7, 16)
    shift: float = Field(default=0.25, ge=0)
    lost: float = Field(default=0.15, ge=0, lt=1)
    leak: float = Field(default=0.3, ge=0, le=1)
    noise: float = Field(default=0.25, ge=0)
    gain: tuple[float, float] = (3.0, 30.0)
    threshold: tuple[float, float] = (0.25, 0.6)
    box_shift: float = Field(default=0.06, ge=0)
    points: int = Field(default=3, gt=0)

    @model_validator(mode="after")
    def _known(self) -> PromptDrawing:
        unknown = sorted(set(self.shares) - set(KINDS))
        if unknown:
            raise ValueError(f"shares: {unknown} given; known: {', '.join(KINDS)}")
        if min(self.shares.values(), default=0) < 0 or not sum(self.shares.values()) > 0:
            raise ValueError("shares: each must be 0 or more, and one more than 0")
        return self


@dataclass(frozen=True)
class MaskPrompts:
    """Prompts of one mask. Coordinates are original pixels.

    Attributes:
        coarse: float32 (side, side), logits over the whole image; None where it is not given.
        box: float32 (4,), XYXY, far edges one past the last pixel; None likewise.
        points: float32 (K, 2), (X, Y), middles of pixels; None likewise.
        labels: int64 (K,), 1 on the mask, 0 beside it.
    """

    coarse: Float | None = None
    box: Float | None = None
    points: Float | None = None
    labels: NDArray[np.int64] | None = None


def draw_prompts(
    mask: Bool, others: Bool, rng: np.random.Generator, drawing: PromptDrawing
) -> MaskPrompts:
    """Draw the prompts of one mask.

    Args:
        mask: bool (H, W), not empty.
        others: bool (K, H, W), masks that a coarse one may leak into.
        rng: Chance; the result is a pure function of it and the other arguments.
        drawing: How to draw.
    """
    names = list(drawing.shares)
    shares = np.array([drawing.shares[name] for name in names])
    kinds = KINDS[names[int(rng.choice(len(names), p=shares / shares.sum()))]]
    coarse = draw_coarse(mask, others, rng, drawing)
    box = _draw_box(mask, coarse, rng, drawing)
    points, labels = _draw_points(mask, rng, drawing)
    return MaskPrompts(
        coarse=coarse if "mask" in kinds else None,
        box=box if "box" in kinds else None,
        points=points if "points" in kinds else None,
        labels=labels if "points" in kinds else None,
    )


def draw_coarse(
    mask: Bool, others: Bool, rng: np.random.Generator, drawing: PromptDrawing
) -> Float:
    """Draw the logits of a coarse mask, float32 (side, side); see `PromptDrawing`."""
    cells = int(rng.integers(drawing.cells[0], drawing.cells[1] + 1))
    shares = _average(_moved(mask, rng, drawing.shift / cells), cells)
    if len(others) and rng.random() < drawing.leak:
        other = others[int(rng.integers(len(others)))]
        shares = np.maximum(shares, rng.uniform(0.1, 0.7) * _average(other, cells))
    shares = shares * (rng.random(shares.shape) >= rng.uniform(0, drawing.lost))
    shares = shares + rng.uniform(0, drawing.noise) * rng.standard_normal(shares.shape)
    grown = nn.functional.interpolate(
        torch.from_numpy(shares.astype(np.float32))[None, None],
        (drawing.side, drawing.side),
        mode="bilinear",
    )
    gain = np.exp(rng.uniform(*np.log(drawing.gain)))
    logits: Float = (gain * (grown[0, 0].numpy() - rng.uniform(*drawing.threshold))).astype(
        np.float32
    )
    return logits


def tight_box(mask: Bool) -> tuple[int, int, int, int]:
    """Return the tight box of a mask that is not empty, XYXY, far edges one past the last pixel."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _draw_box(mask: Bool, coarse: Float, rng: np.random.Generator, drawing: PromptDrawing) -> Float:
    """Draw a box: half the time of the coarse mask, as a refiner cuts it, else the truth's, moved.

    A coarse mask without pixels gives the whole image, as it does there.
    """
    height, width = mask.shape
    if rng.random() < 0.5:
        shown = coarse > 0
        box = np.array(tight_box(shown) if shown.any() else (0, 0, *shown.shape[::-1]))
        scale = np.array([width, height] * 2) / drawing.side
        return (box * scale).astype(np.float32)
    left, top, right, bottom = tight_box(mask)
    sides = np.array([right - left, bottom - top] * 2)
    moved = np.array([left, top, right, bottom]) + (
        rng.standard_normal(4) * drawing.box_shift * sides
    )
    return np.clip(moved, 0, [width, height] * 2).astype(np.float32)


def _draw_points(
    mask: Bool, rng: np.random.Generator, drawing: PromptDrawing
) -> tuple[Float, NDArray[np.int64]]:
    """Draw points: the first on the mask, a further one beside it in one case of three."""
    count = int(rng.integers(1, drawing.points + 1))
    beside = (rng.random(count) < 1 / 3) & (np.arange(count) > 0) & bool((~mask).any())
    points = np.zeros((count, 2), np.float32)
    for index in range(count):
        rows, columns = np.nonzero(~mask if beside[index] else mask)
        chosen = int(rng.integers(len(rows)))
        points[index] = columns[chosen] + 0.5, rows[chosen] + 0.5
    return points, (~beside).astype(np.int64)


def _moved(mask: Bool, rng: np.random.Generator, deviation: float) -> Bool:
    """Return the mask moved by whole pixels, with nothing where it came from."""
    moved = np.zeros_like(mask)
    source, target = [], []
    for side in mask.shape:
        step = int(np.clip(round(rng.standard_normal() * deviation * side), -side // 2, side // 2))
        source.append(slice(max(0, -step), side - max(0, step)))
        target.append(slice(max(0, step), side - max(0, -step)))
    moved[tuple(target)] = mask[tuple(source)]
    return moved


def _average(mask: Bool, cells: int) -> NDArray[np.float64]:
    """Return the share of each of cells x cells that a mask covers."""
    pixels = torch.from_numpy(mask.astype(np.float32))[None]
    pooled = nn.functional.adaptive_avg_pool2d(pixels, cells)
    return pooled[0].numpy().astype(np.float64)
