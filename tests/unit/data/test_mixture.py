"""The mixture: which sample stands where, without replay."""

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.core.errors import InputError
from chiasm.core.samples import Sample, Turn
from chiasm.data.mixture import Mixture


class Numbers:
    """A dataset of numbered samples."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.size:
            raise IndexError(index)
        return Sample(f"{self.name}-{index}", (Turn("user", ("?",)),))


def numbers(**sizes: int) -> dict[str, Numbers]:
    return {name: Numbers(name, size) for name, size in sizes.items()}


def test_one_dataset_gives_each_item_once_an_epoch_in_a_new_order() -> None:
    mixture = Mixture(numbers(a=31), seed=5)
    epochs = [
        [mixture.place(position).item for position in range(31 * epoch, 31 * (epoch + 1))]
        for epoch in range(3)
    ]
    assert all(sorted(epoch) == list(range(31)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_default_weights_draw_everything_once_in_one_epoch() -> None:
    mixture = Mixture(numbers(a=300, b=212), seed=1)
    places = [mixture.place(position) for position in range(len(mixture))]
    assert len(set(places)) == 512


def test_without_shuffling_items_come_in_order() -> None:
    mixture = Mixture(numbers(a=3), shuffle=False)
    assert [mixture.place(position).item for position in range(7)] == [0, 1, 2, 0, 1, 2, 0]


@settings(max_examples=40, deadline=None)
@given(
    weights=st.lists(st.floats(0.01, 100), min_size=2, max_size=5),
    count=st.integers(1, 3000),
    seed=st.integers(0, 2**63),
)
def test_realised_shares_follow_the_weights(weights: list[float], count: int, seed: int) -> None:
    sizes = {f"d{index}": 7 + index for index in range(len(weights))}
    mixture = Mixture(numbers(**sizes), dict(zip(sizes, weights, strict=True)), seed=seed)
    drawn = Counter(mixture.place(position).dataset for position in range(count))
    report = mixture.report(count)
    assert {name: share.drawn for name, share in report.items() if share.drawn} == dict(drawn)
    blocks = count // mixture._block * mixture._block
    for name, share in mixture.report(blocks).items():
        assert abs(share.drawn - blocks * mixture.weights[name]) <= 1


def test_a_dataset_is_gone_through_in_whole_epochs_whatever_its_weight() -> None:
    mixture = Mixture(numbers(small=5, large=997), {"small": 0.7, "large": 0.3}, seed=3)
    found = [place.item for p in range(2000) if (place := mixture.place(p)).dataset == "small"]
    for start in range(0, len(found) - 5, 5):
        assert sorted(found[start : start + 5]) == list(range(5))


def test_far_positions_are_answered_directly_and_alike() -> None:
    far = 10**15
    fresh = Mixture(numbers(a=11, b=13), {"a": 0.7, "b": 0.3}, seed=7)
    window = [fresh.place(position) for position in range(far, far + 600)]
    used = Mixture(numbers(a=11, b=13), {"a": 0.7, "b": 0.3}, seed=7)
    for position in (far + 599, 0, far + 300, 17, far):
        used.place(position)
    assert [used.place(position) for position in range(far, far + 600)] == window
    backwards = [used.place(position) for position in range(far + 599, far - 1, -1)]
    assert backwards[::-1] == window


def test_shares_stay_exact_after_a_very_long_run() -> None:
    mixture = Mixture(numbers(a=3, b=5), {"a": 0.7, "b": 0.3})
    position = 10**15 * mixture._block
    drawn = mixture.report(position)["a"].drawn
    assert abs(drawn - position * 7 // 10) <= 1


def test_a_rare_dataset_is_drawn_and_blocks_never_run_backwards() -> None:
    mixture = Mixture(numbers(a=3, rare=2, c=5), {"a": 1, "rare": 0.0007, "c": 1}, seed=2)
    seen = [mixture.place(position) for position in range(3 * mixture._block)]
    assert 2 <= sum(place.dataset == "rare" for place in seen) <= 4
    counts = [mixture.report(block * mixture._block)["rare"].drawn for block in range(50)]
    assert all(later >= earlier for earlier, later in itertools.pairwise(counts))


def test_seed_changes_the_order_and_the_sample_is_that_of_the_place() -> None:
    first, second = (Mixture(numbers(a=50, b=50), seed=seed) for seed in (0, 1))
    order = [first.place(position) for position in range(40)]
    others = [second.place(position) for position in range(40)]
    assert [place.dataset for place in order] != [place.dataset for place in others]
    assert [first.sample_at(position).identifier for position in range(40)] == [
        f"{name}-{index}" for name, index in order
    ]


@pytest.mark.parametrize(
    ("sizes", "weights", "message"),
    [
        ({}, None, "no datasets"),
        ({"a": 0, "b": 2}, None, r"\['a'\] are empty"),
        ({"a": 1}, {"b": 1.0}, "weights for \\['b'\\], datasets are \\['a'\\]"),
        ({"a": 1, "b": 1}, {"a": 1.0, "b": 0.0}, "'b': 0.0.*above 0"),
        ({"a": 1, "b": 1}, {"a": 1.0, "b": -2.0}, "above 0"),
        ({"a": 1, "b": 1}, {"a": float("nan"), "b": 1.0}, "finite"),
        ({"a": 1, "b": 1}, {"a": 1.0, "b": 1e-9}, "at least 1e-06"),
        ({"a": 1, "b": 1}, {"a": 1.0, "b": 1e-30}, "too small"),
    ],
)
def test_wrong_mixtures_say_what_is_allowed(
    sizes: dict[str, int], weights: dict[str, float] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Mixture(numbers(**sizes), weights)


def test_negative_positions_and_seeds_are_refused() -> None:
    mixture = Mixture(numbers(a=1))
    with pytest.raises(InputError, match="position -1"):
        mixture.place(-1)
    with pytest.raises(InputError, match="0 or more"):
        mixture.report(-1)
    with pytest.raises(InputError, match="seed -1"):
        Mixture(numbers(a=1), seed=-1)
