"""Linear baselines for features in time: probes of clips, and of windows that slide over videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chiasm.data.feature_files import FeatureSet
from chiasm.data.joining import JoinedVideo
from chiasm.heads.action_decoding import ActionDecoderConfig, suppress

Floats = NDArray[np.float64]
Found = dict[str, list[dict[str, Any]]]

VIEWS: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "mean": lambda clips: clips.mean(1),
    "flat": lambda clips: clips.reshape(len(clips), -1),
}
"""What a probe of a clip sees."""

PRIORS = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
"""Variances of the weights that are tried."""

WINDOWS = (8, 11, 14, 17, 20, 23, 25)
"""Frames of a sliding window."""

AROUND = 4
"""Frames on either side of a window that a probe with surroundings sees."""

STEP = 2
"""Frames from one window to the next."""


@dataclass(frozen=True)
class Probe:
    """Multinomial logistic regression on standardised numbers."""

    weights: Floats
    bias: Floats
    mean: Floats
    deviation: Floats

    def logits(self, x: NDArray[Any]) -> Floats:
        """Return float64 (N, classes)."""
        return ((x - self.mean) / self.deviation) @ self.weights + self.bias


def fit(x: NDArray[Any], labels: NDArray[np.int64], classes: int, prior: float) -> Probe:
    """Fit by L-BFGS: mean cross-entropy + |weights|^2 / (2 prior N)."""
    mean, deviation = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64) + 1e-6
    whole = (x - mean) / deviation
    # Weights of least size lie in the space that the samples span, which may be the smaller one.
    turn = np.linalg.svd(whole, full_matrices=False)[2].T if len(x) < x.shape[1] else None
    inputs = torch.from_numpy(whole if turn is None else whole @ turn)
    targets = torch.from_numpy(labels)
    weights = torch.zeros(inputs.shape[1], classes, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weights, bias], max_iter=60, line_search_fn="strong_wolfe", tolerance_grad=1e-6
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(inputs @ weights + bias, targets)
        loss = loss + weights.square().sum() / (2 * prior * len(inputs))
        loss.backward()
        return loss

    optimiser.step(closure)
    learned = weights.detach().numpy()
    return Probe(
        learned if turn is None else turn @ learned, bias.detach().numpy(), mean, deviation
    )


def probe_clips(
    parts: dict[str, FeatureSet], inner: dict[str, FeatureSet], view: str, classes: int
) -> tuple[float, float]:
    """Return the accuracy on held-out clips, and the prior chosen on a part of training."""

    def accuracy(train: FeatureSet, test: FeatureSet, prior: float) -> float:
        assert train.labels is not None and test.labels is not None
        see = VIEWS[view]
        probe = fit(see(train.features), train.labels - 1, classes, prior)
        return float((probe.logits(see(test.features)).argmax(1) == test.labels - 1).mean())

    tried = {prior: accuracy(inner["train"], inner["held_out"], prior) for prior in PRIORS}
    best = max(tried, key=tried.__getitem__)
    return accuracy(parts["train"], parts["held_out"], best), best


@dataclass(frozen=True)
class WindowProbe:
    """A probe of the mean of a window's frames, and of what lies before and after it."""

    probe: Probe
    labels: tuple[str, ...]
    surroundings: bool

    def find(self, videos: Sequence[JoinedVideo], rate: float) -> Found:
        """Return the segments found in videos, suppressed as those of the detector."""
        choice = ActionDecoderConfig()
        found: Found = {}
        for number, video in enumerate(videos):
            spans, seen = windows(video, self.surroundings)
            logits = self.probe.logits(seen)
            scores = np.exp(logits - logits.max(1, keepdims=True))
            scores /= scores.sum(1, keepdims=True)
            own = []
            for place, label in enumerate(self.labels):
                held = np.flatnonzero(scores[:, place] >= 0.01)
                kept, lowered = suppress(spans[held] / rate, scores[held, place], choice)
                own += [
                    {"label": label, "score": score, "segment": (spans[held[k]] / rate).tolist()}
                    for k, score in zip(kept, lowered.tolist(), strict=True)
                ]
            found[str(number)] = own
        return found


def windows(video: JoinedVideo, surroundings: bool) -> tuple[Floats, Floats]:
    """Return all windows of a video: spans in frames (N, 2), and what a probe sees (N, D)."""
    frames = len(video.features)
    sums = np.concatenate([np.zeros((1, video.features.shape[1])), video.features.cumsum(0)])
    spans = np.array(
        [
            (start, start + length)
            for length in WINDOWS
            for start in range(0, frames - length + 1, STEP)
        ]
    )

    def means(start: NDArray[Any], end: NDArray[Any]) -> Floats:
        start, end = start.clip(0, frames), end.clip(0, frames)
        return (sums[end] - sums[start]) / np.maximum(end - start, 1)[:, None]

    seen = [means(spans[:, 0], spans[:, 1])]
    if surroundings:
        seen.append(means(spans[:, 0] - AROUND, spans[:, 0]))
        seen.append(means(spans[:, 1], spans[:, 1] + AROUND))
        # Whether a window differs from what is around it is no linear matter; this makes it one.
        seen += [np.abs(seen[0] - seen[1]), np.abs(seen[0] - seen[2])]
    return spans.astype(np.float64), np.concatenate(seen, 1)


def fit_windows(
    videos: Sequence[JoinedVideo],
    labels: tuple[str, ...],
    rate: float,
    prior: float,
    surroundings: bool,
) -> WindowProbe:
    """Fit a probe of windows.

    A window shows an action with IoU of at least 0.7 with it, and background below 0.4; what lies
    between is not learned from.
    """
    random = np.random.default_rng(0)
    rows: list[Floats] = []
    named: list[int] = []
    for video in videos:
        spans, seen = windows(video, surroundings)
        truth = np.array([[s.start * rate, s.end * rate] for s in video.segments])
        shared = np.minimum(spans[:, None, 1], truth[:, 1]) - np.maximum(
            spans[:, None, 0], truth[:, 0]
        )
        shared = shared.clip(0)
        lengths = (spans[:, 1] - spans[:, 0])[:, None] + (truth[:, 1] - truth[:, 0])
        overlap = shared / (lengths - shared)
        best = overlap.argmax(1)
        right = np.flatnonzero(overlap.max(1) >= 0.7)
        wrong = random.permutation(np.flatnonzero(overlap.max(1) < 0.4))[: len(right) + 8]
        rows += [seen[right], seen[wrong]]
        named += [labels.index(video.segments[best[place]].label) for place in right]
        named += [len(labels)] * len(wrong)
    probe = fit(np.concatenate(rows), np.array(named), len(labels) + 1, prior)
    return WindowProbe(probe, labels, surroundings)
