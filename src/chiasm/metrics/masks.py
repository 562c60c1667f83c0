"""Metrics of masks: bool arrays (H, W), or COCO run-length dictionaries.

Intersection over union of two empty masks is 1 here, everywhere: nothing was asked for and nothing
was given (the convention of generalised referring segmentation). An empty mask on one side only is
0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from chiasm.core.errors import InputError
from chiasm.core.run_length import decode_run_length
from chiasm.metrics.pairs import check_lengths

MaskLike: TypeAlias = NDArray[np.bool_] | Mapping[str, Any]


def mask_iou(prediction: MaskLike, truth: MaskLike) -> float:
    """Return intersection over union in [0, 1] of two masks; 1 where both are empty.

    Raises:
        InputError: A mask is no bool array (H, W) nor a sound run-length mask, or sizes differ.
    """
    return _ratio(*_overlap("mask_iou", prediction, truth, ""))


def mean_iou(predictions: Sequence[MaskLike], truths: Sequence[MaskLike]) -> float:
    """Return mIoU: the mean of each item's IoU, so a small object weighs as much as a large one.

    Raises:
        InputError: The lists do not pair up, or a mask is unsound; the message names the item.
    """
    return float(np.mean(_ious("mean_iou", predictions, truths)))


def cumulative_iou(predictions: Sequence[MaskLike], truths: Sequence[MaskLike]) -> float:
    """Return cIoU (also "overall IoU"): summed intersections over summed unions.

    Large objects weigh more: this is the figure of the RefCOCO tables.

    Raises:
        InputError: As for `mean_iou`.
    """
    pairs = _overlaps("cumulative_iou", predictions, truths)
    return _ratio(sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs))


def generalised_iou(predictions: Sequence[MaskLike], truths: Sequence[MaskLike]) -> float:
    """Return gIoU of generalised referring segmentation (Liu et al. 2023), not the box loss GIoU.

    The mean of each item's IoU, where an item without target counts 1 for an empty prediction and
    0 for any other. Under this module's convention for empty masks that is `mean_iou`; it has its
    own name because tables with and without empty targets must not be compared.

    Raises:
        InputError: As for `mean_iou`.
    """
    return float(np.mean(_ious("generalised_iou", predictions, truths)))


def precision_at(
    predictions: Sequence[MaskLike], truths: Sequence[MaskLike], threshold: float = 0.5
) -> float:
    """Return the share of items whose IoU reaches `threshold` (IoU >= threshold).

    Raises:
        InputError: As for `mean_iou`, or the threshold is not in [0, 1].
    """
    _check_threshold("precision_at", threshold)
    ious = _ious("precision_at", predictions, truths)
    return float(np.mean(ious >= threshold))


def pixel_accuracy(predictions: Sequence[MaskLike], truths: Sequence[MaskLike]) -> float:
    """Return the mean over items of the share of pixels on which prediction and truth agree.

    Background counts, so an empty mask scores high on a small object; read it beside the mean IoU.

    Raises:
        InputError: As for `mean_iou`.
    """
    pairs = _overlaps("pixel_accuracy", predictions, truths)
    areas = [_as_array(truth, "pixel_accuracy: truth").size for truth in truths]
    wrong = [
        (union - intersection) / area
        for (intersection, union), area in zip(pairs, areas, strict=True)
    ]
    return 1 - float(np.mean(wrong))


def average_recall(
    predictions: Sequence[MaskLike],
    truths: Sequence[MaskLike],
    thresholds: Sequence[float] | None = None,
) -> float:
    """Return the area under the curve of recall over IoU thresholds from 0 to 1.

    Recall at t is the share of phrases with IoU >= t: the measure of panoptic narrative grounding
    (Gonzalez et al. 2021). The integral of that step function is exactly the mean IoU, which is
    what is returned; the authors' script approximates it by steps of 1e-5.

    Args:
        predictions: One mask a phrase.
        truths: One mask a phrase.
        thresholds: Average the recall over these thresholds instead of the whole range, for
            example 0.5, 0.55, ..., 0.95.

    Raises:
        InputError: As for `mean_iou`, or a threshold is not in [0, 1].
    """
    ious = _ious("average_recall", predictions, truths)
    if thresholds is None:
        return float(np.mean(ious))
    if len(thresholds) == 0:
        raise InputError("average_recall: no thresholds; give at least one, or None for 0 to 1")
    for threshold in thresholds:
        _check_threshold("average_recall", threshold)
    return float(np.mean([np.mean(ious >= threshold) for threshold in thresholds]))


def _check_threshold(metric: str, threshold: float) -> None:
    if not 0 <= threshold <= 1:
        raise InputError(f"{metric}: threshold {threshold}; allowed: 0 to 1")


def _ious(
    metric: str, predictions: Sequence[MaskLike], truths: Sequence[MaskLike]
) -> NDArray[np.float64]:
    return np.array([_ratio(*pair) for pair in _overlaps(metric, predictions, truths)])


def _overlaps(
    metric: str, predictions: Sequence[MaskLike], truths: Sequence[MaskLike]
) -> list[tuple[int, int]]:
    check_lengths(metric, predictions, truths)
    return [
        _overlap(metric, prediction, truth, f" item {index}:")
        for index, (prediction, truth) in enumerate(zip(predictions, truths, strict=True))
    ]


def _overlap(metric: str, prediction: MaskLike, truth: MaskLike, item: str) -> tuple[int, int]:
    """Return (intersection, union) in pixels."""
    ours = _as_array(prediction, f"{metric}:{item} prediction")
    theirs = _as_array(truth, f"{metric}:{item} truth")
    if ours.shape != theirs.shape:
        raise InputError(
            f"{metric}:{item} prediction of {ours.shape[0]} x {ours.shape[1]} pixels, truth of "
            f"{theirs.shape[0]} x {theirs.shape[1]}; resize the prediction to the original image"
        )
    return int((ours & theirs).sum()), int((ours | theirs).sum())


def _as_array(mask: MaskLike, where: str) -> NDArray[np.bool_]:
    if isinstance(mask, Mapping):
        return decode_run_length(mask, where)
    array = np.asarray(mask)
    if array.dtype != np.bool_ or array.ndim != 2:
        raise InputError(
            f"{where}: array of {array.dtype} and shape {array.shape}; give bool (height, width), "
            "for scores compare with a threshold first"
        )
    return array


def _ratio(intersection: int, union: int) -> float:
    return intersection / union if union else 1.0
