from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chiasm.core.errors import ConfigError
from chiasm.training.sampler import Order, Slices, micro_batches, permute
from tests.unit.training.small import SmallData, collate


@given(st.integers(1, 300), st.integers(0, 2**40), st.integers(0, 10**6))
def test_each_epoch_has_every_sample_once(length: int, seed: int, epoch: int) -> None:
    assert sorted(permute(place, length, seed, epoch) for place in range(length)) == list(
        range(length)
    )


def test_orders_differ_by_epoch_and_seed() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return [permute(place, 101, seed, epoch) for place in range(101)]

    orders = [order(0, 0), order(0, 1), order(1, 0), order(1, 1)]
    for index, one in enumerate(orders):
        assert one != list(range(101))
        assert all(one != other for other in orders[:index])


def test_every_place_is_equally_likely() -> None:
    """Chi-square of where sample 0 goes over 2,600 epochs: 12 degrees of freedom, 0.999 at 32.9."""
    length, epochs = 13, 2600
    counts = [0] * length
    for epoch in range(epochs):
        counts[permute(0, length, 7, epoch)] += 1
    expected = epochs / length
    assert sum((count - expected) ** 2 / expected for count in counts) < 32.9


def test_neighbours_part() -> None:
    """A shuffle that keeps neighbours together would make correlated batches."""
    order = [permute(place, 1009, 3, 0) for place in range(1009)]
    near = sum(abs(one - other) <= 2 for one, other in pairwise(order))
    # Four of 1,008 others are near: four pairs expected, Poisson.
    assert near < 15


def test_the_order_is_fixed_for_good() -> None:
    """A run resumed years later reads on in the same order."""
    assert [permute(place, 11, 5, 2) for place in range(11)] == [1, 6, 7, 4, 9, 10, 2, 5, 0, 3, 8]


def test_a_far_position_costs_nothing() -> None:
    assert 0 <= Order(10**9, 3, True).index(10**15 + 7) < 10**9


def test_an_empty_dataset() -> None:
    with pytest.raises(ConfigError, match="the dataset is empty"):
        Order(0, 3, True)


@given(
    st.integers(1, 50), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(0, 9)
)
def test_processes_and_accumulation_read_what_one_batch_reads(
    length: int, batch: int, accumulation: int, processes: int, step: int
) -> None:
    order = Order(length, 3, True)
    whole = Slices(order, batch * accumulation * processes, 1, 1, 0).indices(step, 0)
    slices = [Slices(order, batch, accumulation, processes, rank) for rank in range(processes)]
    cut = [
        index for turn in range(accumulation) for own in slices for index in own.indices(step, turn)
    ]
    assert cut == whole
    assert slices[0].window == len(whole)


def test_no_sample_is_dropped_between_epochs() -> None:
    slices = Slices(Order(7, 0, False), 3, 1, 1, 0)
    read = [index for step in range(7) for index in slices.indices(step, 0)]
    assert read == list(range(7)) * 3


def test_starting_later_is_reading_on() -> None:
    slices = Slices(Order(29, 0, True), 3, 2, 1, 0)
    running = slices.starting_at(0)
    for _ in range(5 * 2):
        next(running)
    later = slices.starting_at(5)
    assert [next(running) for _ in range(7)] == [next(later) for _ in range(7)]


def test_workers_change_nothing() -> None:
    """Not the batches, and not the model's random draws."""
    slices = Slices(Order(29, 0, True), 3, 2, 1, 0)
    read = []
    for workers in (0, 2):
        torch.manual_seed(3)
        batches = micro_batches(SmallData(29), collate, slices, step=4, workers=workers, seed=0)
        read.append([next(batches) for _ in range(5)])
        drawn = torch.rand(1)
        del batches
        assert drawn == torch.rand(1, generator=torch.Generator().manual_seed(3))
    for one, other in zip(*read, strict=True):
        assert torch.equal(one.input_ids, other.input_ids)
        assert one.samples == other.samples
