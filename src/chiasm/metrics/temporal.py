"""Metrics of segments in time, in the ActivityNet results form."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chiasm.core.errors import InputError

ACTIVITYNET_THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""Temporal IoU thresholds of the ActivityNet detection task."""

THUMOS_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
"""Temporal IoU thresholds that detection on THUMOS14 is told for."""

Segments = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class TemporalPrecision:
    """Average precision of temporal detection.

    Attributes:
        thresholds: Temporal IoU thresholds.
        per_threshold: Mean over labels of the average precision, one number a threshold.
        mean: Mean over thresholds ("average mAP").
        per_label: For each label of the truth, average precision at each threshold.
        ignored: Predictions whose label the truth does not hold; they change no figure, because
            the mean runs over the labels of the truth.
    """

    thresholds: tuple[float, ...]
    per_threshold: tuple[float, ...]
    mean: float
    per_label: Mapping[str, tuple[float, ...]]
    ignored: int


def temporal_iou(prediction: Sequence[float], truth: Sequence[float]) -> float:
    """Return intersection over union in [0, 1] of two segments `[start, end]` in seconds.

    Raises:
        InputError: A segment is no pair of finite numbers with start < end.
    """
    ours = _segment(prediction, "temporal_iou: prediction")
    theirs = _segment(truth, "temporal_iou: truth")
    return float(_ious(np.array(ours), np.array([theirs]))[0])


def temporal_average_precision(
    predictions: Segments,
    truth: Mapping[str, Any],
    thresholds: Sequence[float] = ACTIVITYNET_THRESHOLDS,
) -> TemporalPrecision:
    """Return mean average precision as the ActivityNet evaluation defines it.

    For each label, predictions of all videos are walked from the highest score down; one is right
    at a threshold if the best still unmatched segment of its label in its video has an IoU of at
    least the threshold (a segment matches once; doubles are wrong). Precision is made monotone and
    summed over the steps of recall (the all-point form of VOC 2011). Of equal scores the first
    listed comes first.

    Args:
        predictions: By video, `[{label, score, segment: [start, end]}]`, in seconds.
        truth: By video, `[{label, segment}]`, or the ActivityNet form with the list under
            `annotations`.
        thresholds: Temporal IoU thresholds in (0, 1].

    Raises:
        InputError: A key is missing, a segment is unsound, a threshold is out of range, or the
            truth holds no segment; the message names video and item.
    """
    if not thresholds or not all(0 < threshold <= 1 for threshold in thresholds):
        raise InputError(
            f"temporal_average_precision: thresholds {tuple(thresholds)}; "
            "allowed: one or more above 0, at most 1"
        )
    real = _read_truth(truth)
    proposed, ignored = _read_predictions(predictions, set(real))
    per_label = {
        label: tuple(_average_precision(proposed.get(label, []), videos, thresholds))
        for label, videos in sorted(real.items())
    }
    table = np.array(list(per_label.values()))
    per_threshold = table.mean(axis=0)
    return TemporalPrecision(
        thresholds=tuple(thresholds),
        per_threshold=tuple(per_threshold.tolist()),
        mean=float(per_threshold.mean()),
        per_label=per_label,
        ignored=ignored,
    )


_Truth = dict[str, dict[str, list[tuple[float, float]]]]
_Predictions = dict[str, list[tuple[float, str, tuple[float, float]]]]


def _read_truth(truth: Mapping[str, Any]) -> _Truth:
    """Return, by label and video, the real segments."""
    real: _Truth = defaultdict(lambda: defaultdict(list))
    for video, entry in truth.items():
        items = (
            _key(entry, "annotations", f"truth of video {video!r}")
            if isinstance(entry, Mapping)
            else entry
        )
        for index, item in enumerate(items):
            where = f"truth of video {video!r}, item {index}"
            label = _key(item, "label", where)
            real[label][video].append(_segment(_key(item, "segment", where), where))
    if not real:
        raise InputError(
            "temporal_average_precision: the truth holds no segment; average precision needs one"
        )
    return real


def _read_predictions(predictions: Segments, labels: set[str]) -> tuple[_Predictions, int]:
    """Return, by label, (score, video, segment), and how many predictions had an unknown label."""
    proposed: _Predictions = defaultdict(list)
    ignored = 0
    for video, items in predictions.items():
        if isinstance(items, Mapping):
            raise InputError(
                f"predictions of video {video!r} are a mapping; give a list of "
                "{label, score, segment}. Predictions come first, the truth second"
            )
        for index, item in enumerate(items):
            where = f"predictions of video {video!r}, item {index}"
            label, score = _key(item, "label", where), _score(_key(item, "score", where), where)
            segment = _segment(_key(item, "segment", where), where)
            if label in labels:
                proposed[label].append((score, video, segment))
            else:
                ignored += 1
    return proposed, ignored


def _average_precision(
    proposed: Sequence[tuple[float, str, tuple[float, float]]],
    videos: Mapping[str, Sequence[tuple[float, float]]],
    thresholds: Sequence[float],
) -> list[float]:
    ranked = sorted(proposed, key=lambda item: -item[0])
    hits = np.zeros((len(thresholds), len(ranked)))
    taken: list[set[tuple[str, int]]] = [set() for _ in thresholds]
    for rank, (_, video, segment) in enumerate(ranked):
        if video not in videos:
            continue
        ious = _ious(np.array(segment), np.array(videos[video]))
        for row, threshold in enumerate(thresholds):
            for place in np.argsort(-ious, kind="stable"):
                if ious[place] < threshold:
                    break
                if (video, int(place)) not in taken[row]:
                    taken[row].add((video, int(place)))
                    hits[row, rank] = 1
                    break
    total = sum(len(segments) for segments in videos.values())
    return [_area(row, total) for row in hits]


def _area(hits: NDArray[np.float64], total: int) -> float:
    """Return the area under the monotone precision over recall."""
    right = np.cumsum(hits)
    precision = right / np.arange(1, len(hits) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(np.concatenate([[0.0], right / total]))
    return float(np.sum(steps * best_from_here))


def _ious(segment: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the IoU of one segment (2,) with N others (N, 2)."""
    near = np.maximum(segment[0], others[:, 0])
    far = np.minimum(segment[1], others[:, 1])
    common = np.clip(far - near, 0.0, None)
    return common / ((others[:, 1] - others[:, 0]) + (segment[1] - segment[0]) - common)


def _key(item: Any, name: str, where: str) -> Any:
    if not isinstance(item, Mapping) or name not in item:
        keys = sorted(item) if isinstance(item, Mapping) else type(item).__name__
        hint = " Predictions come first, the truth second." if name == "score" else ""
        raise InputError(f"{where}: no {name!r} in {keys}; add it.{hint}")
    return item[name]


def _score(score: Any, where: str) -> float:
    if not _is_number(score):
        raise InputError(f"{where}: score {score!r}; allowed: a finite number")
    return float(score)


def _segment(segment: Any, where: str) -> tuple[float, float]:
    pair = isinstance(segment, Sequence | np.ndarray) and len(segment) == 2
    if not pair or not all(map(_is_number, segment)) or not segment[0] < segment[1]:
        told = list(segment) if pair else segment
        raise InputError(
            f"{where}: segment {told!r}; allowed: [start, end] in seconds, start < end"
        )
    return float(segment[0]), float(segment[1])


def _is_number(value: Any) -> bool:
    plain = value.item() if isinstance(value, np.generic) else value
    number = isinstance(plain, int | float) and not isinstance(plain, bool)
    # There is no largest whole number, and a largest float.
    return number and abs(plain) <= sys.float_info.max
