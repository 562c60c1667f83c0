"""Numbers for people: pure functions of predictions and truth. A metric never reaches a gradient.

Text metrics take `hypotheses: list[str]` and `references: list[list[str]]`, one list of accepted
texts a hypothesis. Mask metrics take bool arrays (H, W) or COCO run-length dictionaries. Temporal
metrics take segments `[start, end]` in seconds.
"""

from chiasm.metrics.answers import anls, exact_match, vqa_accuracy
from chiasm.metrics.captions import bleu, cider, cider_d, rouge_l
from chiasm.metrics.masks import (
    average_recall,
    cumulative_iou,
    generalised_iou,
    mask_iou,
    mean_iou,
    pixel_accuracy,
    precision_at,
)
from chiasm.metrics.meteor import meteor_approximate
from chiasm.metrics.splits import average_recall_by_split
from chiasm.metrics.temporal import TemporalPrecision, temporal_average_precision, temporal_iou

__all__ = [
    "TemporalPrecision",
    "anls",
    "average_recall",
    "average_recall_by_split",
    "bleu",
    "cider",
    "cider_d",
    "cumulative_iou",
    "exact_match",
    "generalised_iou",
    "mask_iou",
    "mean_iou",
    "meteor_approximate",
    "pixel_accuracy",
    "precision_at",
    "rouge_l",
    "temporal_average_precision",
    "temporal_iou",
    "vqa_accuracy",
]
