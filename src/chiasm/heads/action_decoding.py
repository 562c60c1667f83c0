"""From points of a pyramid to segments in seconds: scores, doubles, limits, all of it counted.

Many points tell the same action. Soft-NMS (Bodla et al., 2017, arXiv:1704.04503) walks segments of
one label from the highest score down and lowers the scores of those that overlap with the one
taken, each time with the scores as they then are; hard suppression takes them out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from chiasm.core.config import Config
from chiasm.core.errors import InputError

Floats = NDArray[np.float64]
Suppression = Literal["gaussian", "linear", "hard", "none"]

LEFT_OUT = ("low score", "beyond candidates", "outside the video", "suppressed", "beyond limit")
"""Why a point's answer is not among the segments found, in the order in which it is asked."""


class FoundSegment(NamedTuple):
    """An action that a model found.

    Attributes:
        start: Seconds.
        end: Seconds, after `start`.
        label: The action.
        score: How sure the model is, in [0, 1].
    """

    start: float
    end: float
    label: str
    score: float

    def to_plain(self) -> dict[str, Any]:
        """Return the ActivityNet results form, `{label, score, segment: [start, end]}`."""
        return {"label": self.label, "score": self.score, "segment": [self.start, self.end]}


@dataclass(frozen=True)
class FoundActions:
    """What a model found in one video.

    Attributes:
        segments: From the highest score down.
        left_out: How many pairs of point and class are not among them, by reason: `LEFT_OUT`.
        cut: How many of the segments reached beyond the video, and were cut at its ends.
    """

    segments: tuple[FoundSegment, ...]
    left_out: Mapping[str, int]
    cut: int


class ActionDecoderConfig(Config):
    """How segments are chosen.

    Attributes:
        suppression: `gaussian` and `linear` lower the scores of overlapping segments of the same
            label, `hard` takes them out, `none` does nothing.
        sigma: Of `gaussian`: scores are multiplied with exp(-IoU^2 / sigma).
        overlap: Of `linear` and `hard`: IoU in [0, 1] above which segments count as doubles.
            `linear` multiplies their scores with 1 - IoU.
        threshold: Lowest score of a segment, before and after suppression, in [0, 1).
        candidates: Of each video, so many of the best go into suppression.
        limit: Most segments of a video.
    """

    suppression: Suppression = "gaussian"
    sigma: float = Field(default=0.5, gt=0)
    overlap: float = Field(default=0.5, ge=0, le=1)
    threshold: float = Field(default=0.001, ge=0, lt=1)
    candidates: int = Field(default=2000, ge=1)
    limit: int = Field(default=200, ge=1)

    def build(self, labels: Sequence[str]) -> ActionDecoder:
        """Build the decoder for a model's list of actions."""
        return ActionDecoder(labels, self)


class ActionDecoder:
    """Turns the answers of an action head into segments.

    Args:
        labels: The actions, in the order of the head's classes.
        choice: How segments are chosen.

    Raises:
        InputError: An action is named twice, or there is none.
    """

    def __init__(self, labels: Sequence[str], choice: ActionDecoderConfig) -> None:
        self.labels = tuple(labels)
        self.choice = choice
        if not labels or len(set(labels)) < len(labels):
            raise InputError(f"actions {list(labels)}; give each a name of its own, at least one")

    def decode(self, named: Mapping[str, Tensor], durations: Tensor) -> list[FoundActions]:
        """Choose the segments of each video.

        The score of a segment is the probability of its class times its centre-ness.

        Args:
            named: `actions.classes`, `actions.centres`, `actions.offsets`, `actions.points` and
                `actions.mask`, as `ActionHead.predict` gives them.
            durations: float (B,), seconds.

        Raises:
            InputError: An answer is missing, or the head has another number of classes.
        """
        missing = [name for name in _NAMES if name not in named]
        if missing:
            raise InputError(
                f"no {', '.join(missing)} among {sorted(named)}; give a head's answers"
            )
        classes, centres, offsets, points, mask = (named[name].detach() for name in _NAMES)
        if classes.shape[-1] != len(self.labels) or len(classes) != len(durations):
            raise InputError(
                f"scores {tuple(classes.shape)} (videos, points, classes) for {len(durations)} "
                f"videos and the actions {list(self.labels)}; give the head's own list"
            )
        found = []
        for row, duration in enumerate(durations.tolist()):
            real = mask[row]
            nearness = centres[row][real].double().sigmoid()
            scores = classes[row][real].double().sigmoid() * nearness[:, None]
            reach = offsets[row][real].double() * offsets.new_tensor([-1.0, 1.0])
            segments = points[row][real][:, :1].double() + reach
            found.append(self._choose(segments.cpu().numpy(), scores.cpu().numpy(), duration))
        return found

    def _choose(self, segments: Floats, scores: Floats, duration: float) -> FoundActions:
        """Choose among segments (P, 2) with scores (P, classes)."""
        choice, left = self.choice, dict.fromkeys(LEFT_OUT, 0)
        points, labels = np.nonzero(scores >= choice.threshold)
        left["low score"] = scores.size - len(points)
        found = scores[points, labels]
        order = np.argsort(-found, kind="stable")
        left["beyond candidates"] = max(0, len(order) - choice.candidates)
        order = order[: choice.candidates]
        points, labels, found = points[order], labels[order], found[order]
        whole = segments[points]
        placed = whole.clip(0.0, duration)
        held = placed[:, 1] > placed[:, 0]
        left["outside the video"] = int((~held).sum())
        whole, placed, labels, found = whole[held], placed[held], labels[held], found[held]
        kept, lowered = self._suppress(placed, labels, found)
        left["suppressed"] = len(found) - len(kept)
        left["beyond limit"] = max(0, len(kept) - choice.limit)
        kept, lowered = kept[: choice.limit], lowered[: choice.limit]
        chosen = tuple(
            FoundSegment(start, end, self.labels[labels[place]], score)
            for place, (start, end), score in zip(
                kept, placed[kept].tolist(), lowered.tolist(), strict=True
            )
        )
        return FoundActions(chosen, left, int((whole[kept] != placed[kept]).any(1).sum()))

    def _suppress(
        self, segments: Floats, labels: NDArray[np.int64], scores: Floats
    ) -> tuple[NDArray[np.int64], Floats]:
        """Return which segments are kept, from the highest score down, and these scores."""
        kept: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
        lowered: list[Floats] = [np.zeros(0)]
        for label in np.unique(labels):
            places = np.flatnonzero(labels == label)
            own, score = suppress(segments[places], scores[places], self.choice)
            kept.append(places[own])
            lowered.append(score)
        places, score = np.concatenate(kept), np.concatenate(lowered)
        order = np.argsort(-score, kind="stable")
        return places[order], score[order]


def suppress(
    segments: Floats, scores: Floats, choice: ActionDecoderConfig
) -> tuple[NDArray[np.int64], Floats]:
    """Suppress doubles among segments of one label.

    Args:
        segments: float64 (N, 2), start and end, start < end.
        scores: float64 (N,), in [0, 1].
        choice: How; a segment whose score falls below `threshold` is left out.

    Returns:
        Which segments stay, int64 (K,), in the order in which they were taken, and their scores at
        that moment. Of equal scores the first comes first.
    """
    left = np.arange(len(segments))
    segments, scores = segments.copy(), scores.copy()
    kept: list[int] = []
    lowered: list[float] = []
    while len(left):
        best = int(np.argmax(scores))
        kept.append(int(left[best]))
        lowered.append(float(scores[best]))
        taken = segments[best]
        left = np.delete(left, best)
        segments, scores = np.delete(segments, best, 0), np.delete(scores, best)
        factors = _factors(_ious(taken, segments), choice)
        scores = scores * factors
        stay = (scores >= choice.threshold) & (factors > 0)
        left, segments, scores = left[stay], segments[stay], scores[stay]
    return np.array(kept, np.int64), np.array(lowered)


def _factors(ious: Floats, choice: ActionDecoderConfig) -> Floats:
    """Return what scores are multiplied with (Bodla et al., eqs. 2 and 3)."""
    if choice.suppression == "gaussian":
        return np.exp(-np.square(ious) / choice.sigma)
    if choice.suppression == "linear":
        return np.where(ious > choice.overlap, 1 - ious, 1.0)
    if choice.suppression == "hard":
        return np.where(ious > choice.overlap, 0.0, 1.0)
    return np.ones_like(ious)


def _ious(segment: Floats, others: Floats) -> Floats:
    """Return the IoU of a segment (2,) with others (N, 2)."""
    shared = np.minimum(segment[1], others[:, 1]) - np.maximum(segment[0], others[:, 0])
    shared = shared.clip(0.0)
    lengths = others[:, 1] - others[:, 0]
    return shared / (segment[1] - segment[0] + lengths - shared)


_NAMES = tuple(f"actions.{name}" for name in ("classes", "centres", "offsets", "points", "mask"))
