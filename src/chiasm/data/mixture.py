"""Which sample stands at which position of a training run: a pure function, without replay.

Positions 0, 1, 2, ... are drawn in blocks. A block has a fixed number of places for each dataset,
shuffled by (seed, block). How many places dataset k has in the first b blocks is the difference of
two rounded cumulative weights, so that its share of any whole number of blocks is right to within
one sample, however long the run. From the closed form follows the rank of a position among its
dataset's own draws, and from the rank the epoch and the place in that epoch's permutation. So any
position is answered directly: a resumed run skips nothing and replays nothing.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chiasm.core.errors import InputError
from chiasm.core.protocols import Dataset
from chiasm.core.samples import Sample

BLOCK = 256
"""Fewest positions in a block of a mixture."""

LONGEST_BLOCK = 1_000_000
"""Most positions in a block; it bounds how small a weight may be."""

_ORDER_STREAM, _ITEM_STREAM = 1, 2
_CACHED = 4


class Place(NamedTuple):
    """Where a position leads: item number `item` of the dataset named `dataset`."""

    dataset: str
    item: int


@dataclass(frozen=True)
class Share:
    """How much of a dataset the first positions draw.

    Attributes:
        drawn: Samples drawn.
        epochs: Times the dataset was gone through.
    """

    drawn: int
    epochs: float


class Mixture:
    """Weighted datasets as one endless sequence of samples.

    Within a dataset every item is drawn once an epoch, in an order shuffled anew each epoch.

    Args:
        datasets: By name; at least one, none empty.
        weights: Share of each dataset in the draws, by name, positive; they need not sum to 1.
            By default the sizes of the datasets, so that one epoch draws every item once.
        seed: Seed of every order.
        shuffle: Whether items are shuffled within each epoch.

    Raises:
        InputError: No dataset, an empty one, or weights that do not fit.
    """

    def __init__(
        self,
        datasets: Mapping[str, Dataset],
        weights: Mapping[str, float] | None = None,
        *,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        self.datasets = dict(datasets)
        self.names = tuple(self.datasets)
        self.sizes = {name: len(dataset) for name, dataset in self.datasets.items()}
        _check_datasets(self.sizes, seed)
        exact = _fractions(self.sizes, weights)
        self.weights = {name: float(weight) for name, weight in exact.items()}
        self.seed = seed
        self.shuffle = shuffle
        self._denominator = math.lcm(*(weight.denominator for weight in exact.values()))
        # bounds[k] / denominator is the summed weight of the datasets before k.
        self._bounds = [0]
        for weight in exact.values():
            self._bounds.append(self._bounds[-1] + int(weight * self._denominator))
        needed = math.ceil(1 / min(exact.values()))
        if needed > LONGEST_BLOCK:
            name = min(exact, key=lambda key: exact[key])
            raise InputError(
                f"weight of dataset {name!r} is {float(exact[name]):.3g} of the sum; at least "
                f"{1 / LONGEST_BLOCK:.0e} is needed, or leave the dataset out"
            )
        self._block = 1 if len(exact) == 1 else max(BLOCK, needed)
        self._orders: OrderedDict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = OrderedDict()
        self._items: OrderedDict[tuple[int, int], NDArray[np.int64]] = OrderedDict()

    def __len__(self) -> int:
        """Items of all datasets together: the positions of one epoch under default weights."""
        return sum(self.sizes.values())

    def place(self, position: int) -> Place:
        """Return the dataset and item at a position.

        Args:
            position: 0 or more.

        Raises:
            InputError: The position is negative.
        """
        if position < 0:
            raise InputError(f"position {position} is not allowed; positions go from 0")
        which, rank = self._rank(int(position))
        name = self.names[which]
        epoch, step = divmod(rank, self.sizes[name])
        if not self.shuffle:
            return Place(name, step)
        return Place(name, int(self._permutation(which, epoch)[step]))

    def sample_at(self, position: int) -> Sample:
        """Return the sample at a position; see `place`."""
        name, index = self.place(position)
        return self.datasets[name][index]

    def report(self, positions: int) -> dict[str, Share]:
        """Return how much of each dataset the first `positions` positions draw, by name.

        Raises:
            InputError: The number is negative.
        """
        if positions < 0:
            raise InputError(f"{positions} positions are not allowed; give 0 or more")
        block, rest = divmod(positions, self._block)
        partial = np.bincount(self._order(block)[0][:rest], minlength=len(self.names))
        shares = {}
        for which, name in enumerate(self.names):
            drawn = self._before(which, block) + int(partial[which])
            shares[name] = Share(drawn, drawn / self.sizes[name])
        return shares

    def _before(self, which: int, block: int) -> int:
        """Return how many places a dataset has in the first `block` blocks."""
        start, stop = (
            # Rounded half up, in whole numbers: exact however long the run.
            (2 * block * self._block * bound + self._denominator) // (2 * self._denominator)
            for bound in self._bounds[which : which + 2]
        )
        return stop - start

    def _rank(self, position: int) -> tuple[int, int]:
        block, offset = divmod(position, self._block)
        order, ranks = self._order(block)
        return int(order[offset]), int(ranks[offset])

    def _order(self, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the dataset of each place of a block, and its rank among the dataset's draws."""
        if block not in self._orders:
            firsts = [self._before(which, block) for which in range(len(self.names))]
            counts = [self._before(which, block + 1) - first for which, first in enumerate(firsts)]
            order = np.repeat(np.arange(len(counts)), counts)
            np.random.default_rng([self.seed, _ORDER_STREAM, block]).shuffle(order)
            ranks = np.empty_like(order)
            for which, count in enumerate(counts):
                ranks[order == which] = firsts[which] + np.arange(count)
            self._orders[block] = (order, ranks)
            if len(self._orders) > _CACHED:
                self._orders.popitem(last=False)
        return self._orders[block]

    def _permutation(self, which: int, epoch: int) -> NDArray[np.int64]:
        key = (which, epoch)
        if key not in self._items:
            generator = np.random.default_rng([self.seed, _ITEM_STREAM, which, epoch])
            self._items[key] = generator.permutation(self.sizes[self.names[which]])
            # Neighbouring positions may lie in two epochs of each dataset.
            if len(self._items) > 2 * len(self.names):
                self._items.popitem(last=False)
        return self._items[key]


def _check_datasets(sizes: Mapping[str, int], seed: int) -> None:
    if not sizes:
        raise InputError("a mixture of no datasets; give at least one")
    empty = [name for name, size in sizes.items() if size == 0]
    if empty:
        raise InputError(f"datasets {empty} are empty; leave them out or give them samples")
    if seed < 0:
        raise InputError(f"seed {seed} is not allowed; give 0 or more")


def _fractions(
    sizes: Mapping[str, int], weights: Mapping[str, float] | None
) -> dict[str, Fraction]:
    """Return the weights as exact shares of their sum, in the order of the datasets."""
    given: Mapping[str, float] = sizes if weights is None else weights
    if set(given) != set(sizes):
        raise InputError(
            f"weights for {sorted(given)}, datasets are {sorted(sizes)}; give one weight a dataset"
        )
    wrong = {
        name: weight for name, weight in given.items() if not (math.isfinite(weight) and weight > 0)
    }
    if wrong:
        raise InputError(f"weights {wrong} are not allowed; a weight is finite and above 0")
    # Ten digits are more than any recipe writes, and keep 0.7 at seven tenths.
    exact = {name: Fraction(given[name]).limit_denominator(10**10) for name in sizes}
    total = sum(exact.values(), Fraction(0))
    if min(exact.values()) == 0 or total == 0:
        raise InputError(f"weights {dict(given)} are too small to tell from 0; use larger ones")
    return {name: weight / total for name, weight in exact.items()}
