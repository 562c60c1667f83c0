"""Domains drawn equally often, and as often as asked in between."""

from __future__ import annotations

from collections import Counter

import pytest

from chiasm.core.errors import InputError
from chiasm.core.samples import Sample
from chiasm.data.balancing import domain_weights, parts_by_domain
from chiasm.data.mixture import Mixture

SIZES = {"general": 2, "news": 61, "sports": 13, "tutorials": 7}


class Listed:
    """Samples of unequally many domains, in turn."""

    def __init__(self) -> None:
        names = [name for name, size in SIZES.items() for _ in range(size)]
        self.samples = [Sample(f"{i}", (), group=name) for i, name in enumerate(names)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


def test_weights_are_inverse_to_frequency() -> None:
    assert domain_weights(SIZES) == dict.fromkeys(SIZES, 0.25)
    plain = domain_weights(SIZES, strength=0)
    assert plain == {name: size / 83 for name, size in SIZES.items()}
    half = domain_weights(SIZES, strength=0.5)
    assert half["news"] / half["general"] == pytest.approx((61 / 2) ** 0.5)
    assert sum(half.values()) == pytest.approx(1)


def test_each_domain_is_drawn_equally_often_and_each_sample_of_it() -> None:
    parts = parts_by_domain(Listed())
    assert {name: len(part) for name, part in parts.items()} == SIZES
    mixture = Mixture(parts, domain_weights(SIZES), seed=5)
    drawn = [mixture.sample_at(position) for position in range(1024)]
    assert Counter(sample.group for sample in drawn) == dict.fromkeys(SIZES, 256)
    tutorials = Counter(s.identifier for s in drawn if s.group == "tutorials")
    assert len(tutorials) == 7
    assert max(tutorials.values()) - min(tutorials.values()) <= 1


def test_a_program_may_tell_the_domain() -> None:
    parts = parts_by_domain(Listed(), lambda index: "odd" if index % 2 else "even")
    assert {name: len(part) for name, part in parts.items()} == {"even": 42, "odd": 41}
    assert parts["odd"][3].identifier == "7"


def test_what_cannot_be_balanced_is_named() -> None:
    with pytest.raises(InputError, match="sample '0' has no domain"):
        parts_by_domain(Listed(), lambda _: "")
    for sizes, strength in (({}, 1.0), ({"a": 0}, 1.0), ({"a": 1}, 1.5)):
        with pytest.raises(InputError, match=r"a strength in \[0, 1\]"):
            domain_weights(sizes, strength)
