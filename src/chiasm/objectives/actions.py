"""Losses of temporal action detection: what happens at a point, when, and how near its middle.

Targets follow ActionFormer (Zhang et al., 2022, arXiv:2202.07925, section 3.3): a point answers for
a segment that it lies in, near its middle, if the farther end lies in the range of the point's
level; of several such segments for the shortest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from chiasm.core.batch import Batch, VideoBatch
from chiasm.core.config import Config
from chiasm.core.errors import InputError
from chiasm.core.outputs import Outputs

CLASSES, OVERLAP, CENTRES = "actions.classes", "actions.overlap", "actions.centres"
SMOOTHNESS = "actions.smoothness"


class ActionsConfig(Config):
    """Losses of an action head.

    Attributes:
        radius: How far from the middle of its segment a point may lie, in strides of its level.
        alpha: Weight of the right class in the focal loss; 1 - alpha of the wrong ones.
        gamma: How much less an easy answer weighs in the focal loss.
        overlap: `diou` also counts how far apart the middles are, `giou` does not.
    """

    radius: float = Field(default=1.5, gt=0)
    alpha: float = Field(default=0.25, ge=0, le=1)
    gamma: float = Field(default=2.0, ge=0)
    overlap: Literal["diou", "giou"] = "diou"

    def build(self) -> Actions:
        """Build the objective."""
        return Actions(radius=self.radius, alpha=self.alpha, gamma=self.gamma, overlap=self.overlap)


class Actions:
    """Terms of an action head, over rows in which it is known what happens.

    - `actions.classes`: focal loss (Lin et al., 2017, arXiv:1708.02002, eq. 5) of all points and
      classes; counted in segments, where a video without any counts as one.
    - `actions.overlap`: 1 - DIoU or GIoU of the segment that a point tells and the true one.
    - `actions.centres`: binary cross-entropy of the centre-ness in nats (FCOS, Tian et al., 2019,
      arXiv:1904.01355, eq. 3).

    The last two are counted in segments, each the mean over the points that answer for it, so that
    an action weighs the same however many these are. A segment that no point answers for adds
    nothing, and is counted.

    Args:
        radius: As in the configuration.
        alpha: As in the configuration.
        gamma: As in the configuration.
        overlap: As in the configuration.
    """

    terms = (CLASSES, OVERLAP, CENTRES)

    def __init__(
        self,
        *,
        radius: float = 1.5,
        alpha: float = 0.25,
        gamma: float = 2.0,
        overlap: Literal["diou", "giou"] = "diou",
    ) -> None:
        self.radius = radius
        self.alpha = alpha
        self.gamma = gamma
        self.overlap = overlap

    def count(self, batch: Batch) -> dict[str, float]:
        """Return, by term, the number of segments as said above."""
        if batch.videos is None:
            return dict.fromkeys(self.terms, 0.0)
        videos = batch.videos
        each = torch.bincount(videos.segment_rows, minlength=len(videos))[videos.segments_known]
        segments = float(each.sum())
        return {CLASSES: float(each.clamp(min=1).sum()), OVERLAP: segments, CENTRES: segments}

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return, by term, the loss summed over segments.

        Reads `actions.classes`, `actions.centres`, `actions.offsets`, `actions.points` and
        `actions.mask`, as `heads.actions.ActionHead` gives them.

        Raises:
            InputError: The head's answers are missing, or segments do not fit them.
        """
        if batch.videos is None or not bool(batch.videos.segments_known.any()):
            zero = torch.zeros((), device=batch.input_ids.device)
            return dict.fromkeys(self.terms, zero)
        logits, centres, offsets, points, mask = (
            find(outputs.named, f"actions.{name}")
            for name in ("classes", "centres", "offsets", "points", "mask")
        )
        known = mask & batch.videos.segments_known[:, None]
        targets = action_targets(
            points, known, batch.videos, classes=logits.shape[-1], radius=self.radius
        )
        focal = sigmoid_focal_loss(logits, targets.classes, alpha=self.alpha, gamma=self.gamma)
        apart = segment_loss(offsets, targets.offsets, self.overlap)
        nearness = nn.functional.binary_cross_entropy_with_logits(
            centres, targets.centres, reduction="none"
        )
        return {
            CLASSES: focal[known].sum(),
            OVERLAP: (apart * targets.weights)[targets.positive].sum(),
            CENTRES: (nearness * targets.weights)[targets.positive].sum(),
        }


@dataclass(frozen=True)
class ActionTargets:
    """What each point should say.

    Attributes:
        classes: float32 (B, P, classes), 1 for what happens at a point that answers for it.
        offsets: float32 (B, P, 2), seconds back to the start and on to the end; zeros elsewhere.
        centres: float32 (B, P), sqrt(nearer end / farther end) in [0, 1]; zeros elsewhere.
        positive: bool (B, P), whether a point answers for a segment.
        weights: float32 (B, P), 1 / number of points that answer for the same segment.
        reached: bool (S,), whether a segment has a point that answers for it.
    """

    classes: Tensor
    offsets: Tensor
    centres: Tensor
    positive: Tensor
    weights: Tensor
    reached: Tensor


@torch.no_grad()
def action_targets(
    points: Tensor, mask: Tensor, videos: VideoBatch, *, classes: int, radius: float
) -> ActionTargets:
    """Say which point answers for which segment.

    Args:
        points: float (B, P, 4), time, stride, and range of the farther end, in seconds.
        mask: bool (B, P), points that may answer.
        videos: The true segments.
        classes: Number of actions.
        radius: How far from the middle of its segment a point may lie, in strides.

    Raises:
        InputError: A label is out of range, a segment does not end after it starts, or there is not
            one row of points a video.
    """
    check_segments(videos, classes, len(points))
    positive = torch.zeros_like(mask)
    found_classes = points.new_zeros(*mask.shape, classes)
    offsets = points.new_zeros(*mask.shape, 2)
    weights = points.new_zeros(mask.shape)
    reached = torch.zeros_like(videos.segment_rows, dtype=torch.bool)
    for row in range(len(points)):
        places = (videos.segment_rows == row).nonzero()[:, 0]
        if not len(places):
            continue
        segments = videos.segments[places].to(points.dtype)
        ends = _ends(points[row], segments)
        allowed = _allowed(points[row], segments, ends, radius) & mask[row][:, None]
        lengths = (segments[:, 1] - segments[:, 0]).expand_as(allowed)
        lengths = lengths.masked_fill(~allowed, torch.inf)
        shortest = lengths.min(1)
        own = allowed.any(1)
        positive[row] = own
        chosen = shortest.indices
        # Two actions with the same start and end both happen there.
        same = (segments[chosen][:, None] == segments).all(-1) & allowed
        labels = nn.functional.one_hot(videos.segment_labels[places], classes).to(points.dtype)
        found_classes[row] = (same.to(points.dtype) @ labels).clamp(max=1) * own[:, None]
        offsets[row] = ends[torch.arange(len(chosen), device=ends.device), chosen] * own[:, None]
        shares = torch.bincount(chosen[own], minlength=len(places))
        weights[row] = own / shares[chosen].clamp(min=1)
        reached[places] = (same & own[:, None]).any(0)
    nearer, farther = offsets.amin(-1), offsets.amax(-1)
    centres = (nearer / farther.where(positive, torch.ones_like(farther))).sqrt()
    return ActionTargets(found_classes, offsets, centres, positive, weights, reached)


def segment_loss(offsets: Tensor, truth: Tensor, kind: Literal["diou", "giou"]) -> Tensor:
    """Return 1 - overlap of two segments around the same point.

    DIoU takes the squared distance of the middles, as a part of the hull, off the IoU (Zheng et
    al., 2020, arXiv:1911.08287, eq. 7). GIoU takes off the part of the hull that neither covers
    (Rezatofighi et al., 2019, arXiv:1902.09630); two segments around one point leave none, so it
    is the IoU here.

    Args:
        offsets: float (..., 2), distances back to the start and on to the end, at least 0.
        truth: The same of the truth.
        kind: Which overlap.

    Returns:
        float (...), in [0, 2).
    """
    shared = torch.minimum(offsets, truth).sum(-1)
    hull = torch.maximum(offsets, truth).sum(-1).clamp(min=torch.finfo(offsets.dtype).tiny)
    loss = 1 - shared / hull
    if kind == "giou":
        return loss
    apart = ((offsets[..., 1] - offsets[..., 0]) - (truth[..., 1] - truth[..., 0])) / 2
    return loss + (apart / hull).square()


class ActionSmoothnessConfig(Config):
    """A penalty on scores that jump from point to point.

    Attributes:
        cut: Jumps larger than this, in nats, weigh no more, so that real borders stay sharp.
    """

    cut: float = Field(default=4.0, gt=0)

    def build(self) -> ActionSmoothness:
        """Build the objective."""
        return ActionSmoothness(cut=self.cut)


class ActionSmoothness:
    """Term `actions.smoothness`: squared jumps between neighbouring points, cut off at a size.

    The truncated squared error of log-probabilities of MS-TCN (Abu Farha and Gall, 2019,
    arXiv:1903.01945, eqs. 8-10), here of independent classes; the earlier point of a pair gets no
    gradient, as there. One number a video: the mean over classes and pairs of neighbouring points
    of one level. It needs no truth.

    Args:
        cut: As in the configuration.
    """

    terms = (SMOOTHNESS,)

    def __init__(self, *, cut: float = 4.0) -> None:
        self.cut = cut

    def count(self, batch: Batch) -> dict[str, float]:
        """Return the number of videos."""
        return {SMOOTHNESS: 0.0 if batch.videos is None else float(len(batch.videos))}

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the mean squared jump, summed over videos.

        Raises:
            InputError: The head's answers are missing.
        """
        if batch.videos is None:
            return {SMOOTHNESS: torch.zeros((), device=batch.input_ids.device)}
        logits, points, mask = (
            find(outputs.named, f"actions.{name}") for name in ("classes", "points", "mask")
        )
        strides = points[..., 1]
        pairs = mask[:, 1:] & mask[:, :-1] & (strides[:, 1:] == strides[:, :-1])
        logs = nn.functional.logsigmoid(logits)
        jumps = (logs[:, 1:] - logs[:, :-1].detach()).abs().clamp(max=self.cut).square().mean(-1)
        each = jumps.masked_fill(~pairs, 0.0).sum(1) / pairs.sum(1).clamp(min=1)
        return {SMOOTHNESS: each.sum()}


def find(named: Mapping[str, Tensor], name: str) -> Tensor:
    """Return an answer of the action head.

    Raises:
        InputError: The model does not give it.
    """
    if name not in named:
        raise InputError(
            f"the model gives no {name!r}; it gives {sorted(named) or 'nothing'}. Build it with "
            "an action head, or leave the terms of actions out of the objective"
        )
    return named[name]


def check_segments(videos: VideoBatch, classes: int, rows: int) -> None:
    """Check the truth.

    Raises:
        InputError: As `action_targets` says.
    """
    if rows != len(videos):
        raise InputError(f"{rows} rows of points for {len(videos)} videos; give one a video")
    wrong = (videos.segment_labels < 0) | (videos.segment_labels >= classes)
    if bool(wrong.any()):
        label = int(videos.segment_labels[wrong][0])
        raise InputError(
            f"a segment has the label {label}, the head knows 0 to {classes - 1}; build it with "
            "as many classes as there are actions"
        )
    empty = ~(videos.segments[:, 1] > videos.segments[:, 0])
    if bool(empty.any()):
        start, end = videos.segments[empty][0].tolist()
        raise InputError(f"a segment goes from {start} to {end} s; it must end after it starts")


def _ends(points: Tensor, segments: Tensor) -> Tensor:
    """Return, of each point and segment, seconds back to the start and on to the end (P, S, 2)."""
    times = points[:, None, 0]
    return torch.stack([times - segments[:, 0], segments[:, 1] - times], -1)


def _allowed(points: Tensor, segments: Tensor, ends: Tensor, radius: float) -> Tensor:
    """Return, of each point and segment, whether the one may answer for the other, bool (P, S)."""
    times, strides, low, high = points[:, None].unbind(-1)
    inside = (ends[..., 0] >= 0) & (ends[..., 1] > 0)
    near = (times - segments.mean(-1)).abs() <= radius * strides
    farther = ends.amax(-1)
    return inside & near & (farther >= low) & (farther < high)
