"""How a predicted mask and the true one lie over each other, in pixels of the original image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from chiasm.core.errors import InputError
from chiasm.evaluation.bootstrap import Bootstrap, Interval

PRECISIONS = (0.5, 0.7, 0.9)

MEAN_IOU = "mean_iou"
"""The number that a run is known by."""


@dataclass(frozen=True)
class Overlap:
    """Counts of pixels for one phrase.

    Attributes:
        intersection: In both masks.
        union: In at least one.
        pixels: In the image.
    """

    intersection: int
    union: int
    pixels: int

    @property
    def iou(self) -> float:
        """Intersection over union; 1 where both masks are empty."""
        return self.intersection / self.union if self.union else 1.0

    @property
    def accuracy(self) -> float:
        """Share of the image's pixels that both masks call the same."""
        return 1 - (self.union - self.intersection) / self.pixels


def overlap(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Overlap:
    """Count the pixels of two masks bool (H, W).

    Raises:
        InputError: The sizes differ.
    """
    if prediction.shape != truth.shape:
        raise InputError(
            f"a predicted mask of {prediction.shape} pixels for a true one of {truth.shape}; carry "
            "the prediction to the original image first"
        )
    return Overlap(int((prediction & truth).sum()), int((prediction | truth).sum()), truth.size)


def to_pixels(logits: Tensor, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask of logits over a whole image: bilinear to its pixels, then above 0.

    A logit above 0 is a probability above 0.5.

    Args:
        logits: float (h, w) over the whole original image.
        size: (height, width) of the original image.

    Returns:
        bool (height, width).
    """
    grown = F.interpolate(logits[None, None].float(), size, mode="bilinear", align_corners=False)
    return np.asarray((grown[0, 0] > 0).cpu())


def scores_of(
    overlaps: Sequence[Overlap], clusters: Sequence[str], bootstrap: Bootstrap
) -> Mapping[str, Interval]:
    """Return the numbers of some phrases with their intervals.

    Args:
        overlaps: One a phrase, at least one.
        clusters: The sample that each phrase belongs to; whole samples are resampled.
        bootstrap: How intervals are drawn.

    Returns:
        By name: `mean_iou`; `cumulative_iou` (summed intersections over summed unions, Yu et al.
        2016); `generalised_iou` (Liu et al. 2023); `precision_at_0.5`, `_0.7`, `_0.9` (share of
        phrases with at least that IoU); `pixel_accuracy` (mean over phrases); `average_recall`
        (Gonzalez et al. 2021, the area under recall over IoU thresholds, which is the mean IoU).
    """
    ious = [found.iou for found in overlaps]
    mean = bootstrap.mean(ious, clusters)
    numbers = {MEAN_IOU: mean, "cumulative_iou": _cumulative(overlaps, clusters, bootstrap)}
    numbers["generalised_iou"] = mean
    for threshold in PRECISIONS:
        reached = [float(iou >= threshold) for iou in ious]
        numbers[f"precision_at_{threshold}"] = bootstrap.mean(reached, clusters)
    accuracies = [found.accuracy for found in overlaps]
    return {
        **numbers,
        "pixel_accuracy": bootstrap.mean(accuracies, clusters),
        "average_recall": mean,
    }


def _cumulative(
    overlaps: Sequence[Overlap], clusters: Sequence[str], bootstrap: Bootstrap
) -> Interval:
    """Phrases with neither truth nor prediction count as one pixel that is right."""
    return bootstrap.ratio(
        [found.intersection if found.union else 1 for found in overlaps],
        [found.union or 1 for found in overlaps],
        clusters,
    )


def as_array(mask: Tensor) -> NDArray[np.bool_]:
    """Return a mask bool (H, W) as an array.

    Raises:
        InputError: It is not bool or has not two axes.
    """
    if mask.dtype != torch.bool or mask.dim() != 2:
        raise InputError(f"a true mask of {mask.dtype} {tuple(mask.shape)}; give bool (H, W)")
    return np.asarray(mask.cpu())
