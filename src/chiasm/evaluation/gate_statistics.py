"""What a gate did, in numbers: shares, contributions, entropy, spread, alarms, histograms."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chiasm.evaluation.bootstrap import Bootstrap, Interval
from chiasm.evaluation.protocols import GateReading

DOMINANCE_THRESHOLD = 0.95
"""Mean share of one stream, or of its contribution, above which an alarm is raised."""

SPREAD_THRESHOLD = 0.01
"""Standard deviation of every share across images below which an alarm is raised."""

HISTOGRAM_BINS = 20
"""Equal bins over shares from 0 to 1."""


@dataclass(frozen=True)
class Alarm:
    """A sign that a gate may have collapsed. A sign, not a proof: see `text`.

    Attributes:
        name: `dominance`, `contribution` or `spread`.
        fired: Whether the value crosses the threshold; None where it cannot be told.
        value: The value compared; None where it cannot be told.
        threshold: What it is compared with.
        text: What was found and what it may mean.
    """

    name: str
    fired: bool | None
    value: float | None
    threshold: float
    text: str


@dataclass(frozen=True)
class Histogram:
    """Shares of one stream over the images of one group.

    Attributes:
        group: Name of the group; None for all images together.
        stream: Name of the stream.
        counts: Images in each of `HISTOGRAM_BINS` equal bins over [0, 1], the last one closed.
        mean: Mean share with its interval.
    """

    group: str | None
    stream: str
    counts: tuple[int, ...]
    mean: Interval


@dataclass(frozen=True)
class GateSummary:
    """What a gate did over all images.

    Attributes:
        images: Number of images.
        weights: Mean share of each stream, by name.
        contribution_shares: Mean over images of each stream's contribution (norm of share times
            projected feature) as a share of the sum over streams, by name.
        spread: Standard deviation of each share across images (n in the denominator), by name.
        entropy: Entropy of an image's shares over log(streams): 0 one stream only, 1 all equal.
        token_entropy: The same of each token's shares, averaged in the image. Far below `entropy`
            it says that tokens choose though the image as a whole does not.
        histograms: For all images and each group, each stream.
        alarms: Three of them.
    """

    images: int
    weights: Mapping[str, Interval]
    contribution_shares: Mapping[str, Interval]
    spread: Mapping[str, float]
    entropy: Interval
    token_entropy: Interval
    histograms: tuple[Histogram, ...]
    alarms: tuple[Alarm, ...]


def normalised_entropy(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the entropy of shares (..., S) over log S, in [0, 1]: float (...).

    S is at least 2; a share of 0 adds nothing.
    """
    logs = np.log(np.where(shares > 0, shares, 1.0))
    return -(shares * logs).sum(-1) / np.log(shares.shape[-1])


def contribution_shares(contributions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return contributions (I, S) over their sum; equal shares where nothing contributes."""
    totals = contributions.sum(-1, keepdims=True)
    equal = np.full_like(contributions, 1 / contributions.shape[-1])
    return np.divide(contributions, totals, out=equal, where=totals > 0)


def summarise_gate(
    reading: GateReading,
    streams: Sequence[str],
    groups: Sequence[str],
    clusters: Sequence[Hashable],
    bootstrap: Bootstrap,
) -> GateSummary:
    """Summarise what a gate did.

    Args:
        reading: Shares and contributions of I images, at least one.
        streams: Names of the S streams, the host first.
        groups: Group of each image.
        clusters: Sample of each image: images of one sample are resampled together.
        bootstrap: How intervals are drawn.
    """
    shares = contribution_shares(reading.contributions)
    token_entropy = [float(normalised_entropy(cells).mean()) for cells in reading.maps]
    weights = {
        name: bootstrap.mean(reading.weights[:, place].tolist(), clusters)
        for place, name in enumerate(streams)
    }
    contributed = {
        name: bootstrap.mean(shares[:, place].tolist(), clusters)
        for place, name in enumerate(streams)
    }
    spread = dict(zip(streams, reading.weights.std(axis=0).tolist(), strict=True))
    return GateSummary(
        images=len(reading.weights),
        weights=weights,
        contribution_shares=contributed,
        spread=spread,
        entropy=bootstrap.mean(normalised_entropy(reading.weights).tolist(), clusters),
        token_entropy=bootstrap.mean(token_entropy, clusters),
        histograms=_histograms(reading.weights, streams, groups, clusters, bootstrap),
        alarms=(
            _dominance("dominance", "weight", weights),
            _dominance("contribution", "contribution", contributed),
            _spread(spread, len(reading.weights)),
        ),
    )


def _histograms(
    weights: NDArray[np.float64],
    streams: Sequence[str],
    groups: Sequence[str],
    clusters: Sequence[Hashable],
    bootstrap: Bootstrap,
) -> tuple[Histogram, ...]:
    found = []
    for group in (None, *sorted(set(groups))):
        members = [place for place, name in enumerate(groups) if group in (None, name)]
        for column, stream in enumerate(streams):
            values = weights[members, column]
            counts, _ = np.histogram(values, bins=HISTOGRAM_BINS, range=(0.0, 1.0))
            found.append(
                Histogram(
                    group=group,
                    stream=stream,
                    counts=tuple(counts.tolist()),
                    mean=bootstrap.mean(values.tolist(), [clusters[place] for place in members]),
                )
            )
    return tuple(found)


def _dominance(name: str, what: str, means: Mapping[str, Interval]) -> Alarm:
    stream = max(means, key=lambda key: means[key].mean)
    value = means[stream].mean
    fired = value > DOMINANCE_THRESHOLD
    if not fired:
        text = (
            f"No stream takes more than {DOMINANCE_THRESHOLD:.0%} of the {what} on average; the "
            f"largest is {stream} with {value:.1%}."
        )
    elif what == "weight":
        text = (
            f"{stream} takes {value:.1%} of the weight on average. The gate may have settled on "
            "one stream; compare the contributions and the accuracy with the gate forced before "
            "concluding so, because a small weight on large features can still matter."
        )
    else:
        text = (
            f"{stream} makes up {value:.1%} of what is added. The other streams can change the "
            "tokens only a little; whether that little matters, the forced settings show."
        )
    return Alarm(name, fired, value, DOMINANCE_THRESHOLD, text)


def _spread(spread: Mapping[str, float], images: int) -> Alarm:
    if images < 2:
        text = "One image only: whether the gate differs between images cannot be told."
        return Alarm("spread", None, None, SPREAD_THRESHOLD, text)
    value = max(spread.values())
    fired = value < SPREAD_THRESHOLD
    text = f"The weights differ between images by a standard deviation of {value:.3f}" + (
        ": the gate gives nearly the same weights to every image. It then works as a fixed "
        "mix, which can be a good one; it does not choose."
        if fired
        else "."
    )
    return Alarm("spread", fired, value, SPREAD_THRESHOLD, text)
