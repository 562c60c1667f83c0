"""Sampling: pure streams, disjoint splits, held-out compositions, room for every thing."""

from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from chiasm.core.errors import ConfigError, UnknownNameError
from chiasm.data.world.render import masks
from chiasm.data.world.sampling import (
    SPLITS,
    SceneConfig,
    compositions,
    is_held_out,
    sample_scene,
    stream,
)
from chiasm.data.world.scene import COLOURS, SHAPES, SIZES, TEXTURES, Scene, fingerprint
from chiasm.data.world.words import position

DEFAULT = SceneConfig()
TABLES = (tuple(SHAPES), tuple(COLOURS), tuple(TEXTURES))


def scenes(split: str, count: int, config: SceneConfig = DEFAULT, seed: int = 7) -> list[Scene]:
    return [sample_scene(stream(seed, split, i), config, split) for i in range(count)]


def held_out(scene: Scene) -> list[bool]:
    return [is_held_out(t.shape, t.colour, t.texture) for t in scene.things]


@given(seed=st.integers(0, 2**40), index=st.integers(0, 2**40))
@settings(max_examples=25, deadline=None)
def test_an_item_is_a_pure_function_of_seed_split_and_index(seed: int, index: int) -> None:
    one, other = (sample_scene(stream(seed, "test", index), DEFAULT, "test") for _ in range(2))
    assert one == other


def test_streams_differ_in_every_argument() -> None:
    keys = product((0, 1), SPLITS, (0, 1, 2), ((), (0,), (1,), (0, 1)))
    # A stream is not the continuation of a shorter key padded with zeros, either.
    first = [stream(s, split, i, *path).integers(2**62) for s, split, i, path in keys]
    assert len(set(first)) == len(first)


def test_splits_share_no_scene() -> None:
    digests = [fingerprint(scene) for split in SPLITS for scene in scenes(split, 150)]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_held_out_compositions_never_occur_in(split: str) -> None:
    assert not any(any(held_out(scene)) for scene in scenes(split, 300))


def test_every_composition_scene_has_exactly_one_held_out_thing() -> None:
    drawn = scenes("composition", 200)
    assert {sum(held_out(scene)) for scene in drawn} == {1}
    places = Counter(held_out(scene).index(True) for scene in drawn if len(scene.things) == 3)
    assert set(places) == {0, 1, 2}, "the held-out thing stands anywhere from back to front"


def test_every_pair_of_attributes_is_seen_and_every_word_is_held_out_somewhere() -> None:
    seen, hidden = compositions(*TABLES)
    for first, second in combinations(range(3), 2):
        pairs = {(triple[first], triple[second]) for triple in seen}
        assert pairs == set(product(TABLES[first], TABLES[second]))
    for place, table in enumerate(TABLES):
        assert {triple[place] for triple in hidden} == set(table)
    assert len(seen) + len(hidden) == 7 * 8 * 5
    assert 0.07 < len(hidden) / 280 < 0.12


@settings(max_examples=25, deadline=None)
@given(index=st.integers(0, 10_000))
def test_things_stay_on_the_canvas_and_visible(index: int) -> None:
    config = SceneConfig(height=96, width=128, things=(3, 3), overlap=0.7, least_visible=0.9)
    scene = sample_scene(stream(8, "train", index), config, "train")
    visible, whole = masks(scene)
    assert (visible.sum((1, 2)) >= 0.9 * whole.sum((1, 2))).all()
    for thing, mask in zip(scene.things, whole, strict=True):
        assert thing.size / 2 <= thing.x <= 128 - thing.size / 2
        assert thing.size / 2 <= thing.y <= 96 - thing.size / 2
        rows, columns = np.nonzero(mask)
        # A canvas that cuts a thing would move its centroid.
        assert (columns + 0.5).mean() == pytest.approx(thing.x, abs=0.6)
        assert (rows + 0.5).mean() == pytest.approx(thing.y, abs=0.6)


def test_things_differ_in_colour_and_shape() -> None:
    for scene in scenes("train", 200, SceneConfig(things=(3, 3))):
        assert len({(t.colour, t.shape) for t in scene.things}) == 3


def test_counts_sizes_and_positions_are_balanced() -> None:
    drawn = scenes("train", 900)
    counts = Counter(len(scene.things) for scene in drawn)
    assert set(counts) == {1, 2, 3}
    assert min(counts.values()) > 240
    sizes = Counter(scene.size_word(i) for scene in drawn for i in range(len(scene.things)))
    assert set(sizes) == set(SIZES)
    assert min(sizes.values()) > 0.4 * sum(sizes.values())
    places = Counter(position(scene, thing) for scene in drawn for thing in scene.things)
    assert len(places) == 9
    assert min(places.values()) > 0.07 * sum(places.values())
    # Uniform centres would put 0.3 of them there, since large things do not fit into a corner.
    corners = sum(number for place, number in places.items() if " " in place)
    assert corners > 0.39 * sum(places.values())


def test_occluders_are_off_unless_asked_for() -> None:
    assert not any(scene.occluders for scene in scenes("train", 20))
    barred = scenes("train", 20, SceneConfig(occluders=(1, 2), least_visible=0.3))
    assert {len(scene.occluders) for scene in barred} == {1, 2}


def test_unknown_split() -> None:
    with pytest.raises(UnknownNameError, match="'tset'; known: composition, test, train"):
        stream(0, "tset", 0)
    with pytest.raises(UnknownNameError, match="split 'tset'"):
        sample_scene(stream(0, "test", 0), DEFAULT, "tset")


def test_a_crowded_world_says_so() -> None:
    config = SceneConfig(things=(9, 9), sizes=("large",), overlap=0.0)
    with pytest.raises(ConfigError, match=r"no room for 9 things.*fewer things, smaller sizes"):
        sample_scene(stream(0, "train", 0), config, "train")


def test_a_world_without_held_out_compositions_says_so() -> None:
    config = SceneConfig(things=(1, 1), shapes=("circle",), colours=("green",), textures=("plain",))
    with pytest.raises(ConfigError, match=r"'composition' has no composition.*allow more"):
        sample_scene(stream(0, "composition", 0), config, "composition")


def test_all_faults_of_a_configuration_are_told_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        SceneConfig(shapes=("blob",), periods=(3,), things=(2, 1), noise=(2.0, 1.0))
    for piece in ("['blob']", "circle, square", "even numbers", "(2, 1) is no range", "(2.0, 1.0)"):
        assert piece in str(caught.value)
