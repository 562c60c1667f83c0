"""What masks score that never look: the same mask for every phrase, and a box in the middle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from chiasm.core.errors import InputError
from chiasm.core.grid import ImageGeometry
from chiasm.core.samples import Phrase, Sample
from chiasm.evaluation.mask_ceiling import cell_shares

SIDE = 64
"""Cells along each side of the image in which masks are gathered, whatever its shape."""

MOST_MASKS = 4096
"""Masks that the baselines are fitted to; of more, evenly spaced ones are taken."""

CONSTANT, CENTRE_BOX = "constant", "centre_box"


@dataclass(frozen=True)
class MaskBaselines:
    """Two masks of an image that know nothing of it; both fitted, so that they are no straw men.

    Attributes:
        constant: bool (SIDE, SIDE) over any image: the mean of the masks, cut where the mean IoU
            with them is highest.
        box: Side of the centred box as a share of the image's, where its mean IoU is highest.
        source: What they were fitted to: "training phrases" or "evaluated phrases".
        count: To how many masks.
    """

    constant: NDArray[np.bool_]
    box: float
    source: str
    count: int

    def masks(self, height: int, width: int) -> dict[str, NDArray[np.bool_]]:
        """Return by name the masks bool (height, width) of an image of this size."""
        rows, columns = _places(height), _places(width)
        return {
            CONSTANT: self.constant[rows[:, None], columns[None, :]],
            CENTRE_BOX: _centred(self.box, height)[:, None] & _centred(self.box, width)[None, :],
        }


def fit_baselines(masks: Iterable[NDArray[np.bool_]], source: str) -> MaskBaselines:
    """Fit the baselines to masks bool (H, W).

    Args:
        masks: At least one; sizes may differ.
        source: What they are, for reports.

    Raises:
        InputError: There is no mask.
    """
    gathered = [_gather(mask) for mask in masks]
    if not gathered:
        raise InputError(f"baselines of masks: no {source}; give data with masks")
    shares = np.stack(gathered).reshape(len(gathered), -1)
    mean = shares.mean(0)
    levels = np.unique(np.quantile(mean, np.linspace(0, 0.995, 100)))
    constants = mean[None] >= levels[:, None]
    sides = np.arange(2, SIDE + 1, 2) / SIDE
    boxes = np.stack([np.outer(_centred(side, SIDE), _centred(side, SIDE)) for side in sides])
    return MaskBaselines(
        constant=constants[_best(shares, constants)].reshape(SIDE, SIDE),
        box=float(sides[_best(shares, boxes.reshape(len(sides), -1))]),
        source=source,
        count=len(gathered),
    )


def masks_of(samples: Sequence[Sample]) -> Iterable[NDArray[np.bool_]]:
    """Read the masks of samples, at most `MOST_MASKS`, evenly spaced.

    Raises:
        DataError: A mask is broken.
    """
    phrases: list[Phrase] = [
        phrase for sample in samples for phrase in sample.phrases if phrase.mask is not None
    ]
    count = min(MOST_MASKS, len(phrases))
    for place in range(count):
        source = phrases[place * len(phrases) // count].mask
        if source is not None:
            yield source.read()


def _gather(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    height, width = mask.shape
    geometry = ImageGeometry.from_resize((height, width), (SIDE, SIDE), (1, 1))
    return cell_shares(torch.from_numpy(mask), geometry).numpy().astype(np.float32)


def _best(shares: NDArray[np.float32], candidates: NDArray[np.bool_]) -> int:
    """Return the candidate (of (C, SIDE * SIDE)) with the highest mean IoU with shares (N, ...)."""
    wanted = candidates.astype(np.float32)
    shared = shares @ wanted.T
    union = shares.sum(1)[:, None] + wanted.sum(1)[None] - shared
    ious = np.divide(shared, union, out=np.ones_like(shared), where=union > 0)
    return int(ious.mean(0).argmax())


def _places(length: int) -> NDArray[np.int64]:
    return ((np.arange(length) + 0.5) / length * SIDE).astype(np.int64)


def _centred(share: float, length: int) -> NDArray[np.bool_]:
    """Return bool (length,): the places whose middle lies in the central share of the axis."""
    middles = (np.arange(length) + 0.5) / length
    return np.abs(middles - 0.5) < share / 2
