"""Percentile bootstrap intervals of a mean and of a paired difference (Efron 1979)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chiasm.core.errors import InputError

CHUNK = 4_000_000
"""Most indices drawn at once; bounds memory at about 64 MB."""


@dataclass(frozen=True)
class Interval:
    """A mean with its interval.

    Attributes:
        mean: Mean of the values.
        low: Lower end of the interval.
        high: Upper end of the interval.
        count: How many values.
        clusters: How many independent units were resampled; equal to `count` without clusters.
    """

    mean: float
    low: float
    high: float
    count: int
    clusters: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are drawn; the same settings and values give the same numbers.

    Attributes:
        resamples: Number of resamples.
        level: Coverage aimed at, in (0, 1).
        seed: Seed of the random numbers.
    """

    resamples: int = 2000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 1 or not 0 < self.level < 1:
            raise InputError(
                f"bootstrap: resamples={self.resamples}, level={self.level}; allowed: at least 1 "
                "resample, a level between 0 and 1"
            )

    @property
    def method(self) -> str:
        """The method in words, for reports."""
        return (
            f"{self.level:.0%} percentile bootstrap, {self.resamples} resamples of whole samples, "
            f"seed {self.seed}"
        )

    def mean(self, values: Sequence[float], clusters: Sequence[Hashable] | None = None) -> Interval:
        """Return the mean of values and its interval.

        Args:
            values: The values.
            clusters: The unit each value belongs to. Values of one unit (questions about one
                image) are not independent, so whole units are resampled; the mean of a resample
                is over the values in it. None takes each value as its own unit.

        Raises:
            InputError: There are no values, or clusters of another length.
        """
        array = np.asarray(values, dtype=np.float64)
        if array.size == 0:
            raise InputError("bootstrap: no values; an interval needs at least one")
        sums, counts = _by_cluster(array, clusters)
        return self._interval(sums, counts, array.size)

    def ratio(
        self,
        numerators: Sequence[float],
        denominators: Sequence[float],
        clusters: Sequence[Hashable] | None = None,
    ) -> Interval:
        """Return the sum of numerators over the sum of denominators, and its interval.

        Args:
            numerators: One an item.
            denominators: One an item, none negative.
            clusters: As for `mean`; whole units are resampled, both sums taken over them.

        Raises:
            InputError: There are no values, the lists differ in length, or all denominators of a
                unit are zero.
        """
        if len(numerators) != len(denominators) or not len(numerators):
            raise InputError(
                f"bootstrap: {len(numerators)} numerators, {len(denominators)} denominators; a "
                "ratio needs one of each an item, and at least one item"
            )
        sums, _ = _by_cluster(np.asarray(numerators, dtype=np.float64), clusters)
        counts, _ = _by_cluster(np.asarray(denominators, dtype=np.float64), clusters)
        if not (counts > 0).all():
            raise InputError("bootstrap: a unit whose denominators are all zero has no ratio")
        return self._interval(sums, counts, len(numerators))

    def difference(
        self,
        left: Sequence[float],
        right: Sequence[float],
        clusters: Sequence[Hashable] | None = None,
    ) -> Interval:
        """Return the mean of left - right, item by item, and its interval.

        Raises:
            InputError: The lists differ in length, or as for `mean`.
        """
        if len(left) != len(right):
            raise InputError(
                f"bootstrap: {len(left)} values against {len(right)}; a paired difference needs "
                "the same items in the same order"
            )
        differences = np.asarray(left, dtype=np.float64) - np.asarray(right, dtype=np.float64)
        return self.mean(differences.tolist(), clusters)

    def _interval(
        self, sums: NDArray[np.float64], counts: NDArray[np.float64], items: int
    ) -> Interval:
        tail = (1 - self.level) / 2
        low, high = np.quantile(self._resampled_means(sums, counts), [tail, 1 - tail])
        return Interval(float(sums.sum() / counts.sum()), float(low), float(high), items, len(sums))

    def _resampled_means(
        self, sums: NDArray[np.float64], counts: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        random = np.random.default_rng(self.seed)
        means = np.empty(self.resamples)
        step = max(1, CHUNK // len(sums))
        for start in range(0, self.resamples, step):
            rows = min(step, self.resamples - start)
            drawn = random.integers(len(sums), size=(rows, len(sums)))
            means[start : start + rows] = sums[drawn].sum(1) / counts[drawn].sum(1)
        return means


def _by_cluster(
    values: NDArray[np.float64], clusters: Sequence[Hashable] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sum of values and their count for each cluster, in order of appearance."""
    if clusters is None:
        return values, np.ones_like(values)
    if len(clusters) != len(values):
        raise InputError(f"bootstrap: {len(clusters)} clusters for {len(values)} values")
    number: dict[Hashable, int] = {}
    places = np.array([number.setdefault(cluster, len(number)) for cluster in clusters])
    sums = np.bincount(places, weights=values).astype(np.float64)
    return sums, np.bincount(places).astype(np.float64)
