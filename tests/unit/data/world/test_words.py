"""Scenes in words: positions, unique phrases, captions."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.core.errors import InputError
from chiasm.data.world.sampling import SceneConfig, sample_scene, stream
from chiasm.data.world.scene import COLOURS, SHAPES, SIZES, TEXTURES, Background, Scene, Thing
from chiasm.data.world.words import (
    article,
    caption,
    describe,
    has_clear_position,
    position,
    refer,
    references,
)

CONFIG = SceneConfig(things=(1, 4), overlap=0.4, least_visible=0.3)
CIRCLE = Thing("circle", "red", "striped", 8, x=20, y=20, size=28)


def pair(other: Thing) -> Scene:
    return Scene(120, 120, Background("plain", ((90.0, 90.0, 90.0),)), (CIRCLE, other))


def fits(text: str, words: dict[str, str]) -> bool:
    """Read a phrase on its own terms: every word of it must be true of the thing."""
    known = {w for table in (SHAPES, COLOURS, TEXTURES, SIZES) for w in table}
    spoken = [word for word in text.split() if word not in ("the", "thing")]
    assert set(spoken) <= known, text
    return set(spoken) <= set(words.values())


@settings(max_examples=60, deadline=None)
@given(index=st.integers(0, 10_000))
def test_a_phrase_fits_one_thing_only(index: int) -> None:
    scene = sample_scene(stream(9, "train", index), CONFIG, "train")
    every = [scene.attributes(place) for place in range(len(scene.things))]
    rng = np.random.default_rng(index)
    for place in range(len(every)):
        phrases = references(scene, place, longer=True)
        for text in [*phrases, refer(scene, place), refer(scene, place, rng)]:
            fitting = [other for other in range(len(every)) if fits(text, every[other])]
            assert fitting == [place], text


@pytest.mark.parametrize("hide", ["shape", "colour", "texture", "size"])
def test_a_hidden_attribute_is_not_given_away(hide: str) -> None:
    for index in range(40):
        scene = sample_scene(stream(9, "train", index), CONFIG, "train")
        for place in range(len(scene.things)):
            for text in references(scene, place, hide, longer=True):
                assert scene.attributes(place)[hide] not in text.split()


def test_short_phrases_come_alone_where_one_fits() -> None:
    other = replace(CIRCLE, shape="square", colour="blue", x=80)
    assert references(pair(other), 0) == ["circle", "red thing", "red circle"]
    assert refer(pair(other), 0) == "the circle"


def test_longer_phrases_help_where_no_short_one_fits() -> None:
    twin = replace(CIRCLE, x=80, size=50)
    assert refer(pair(twin), 0) == "the small circle"
    assert refer(pair(replace(CIRCLE, x=80, texture="dotted")), 0) == "the striped circle"


def test_fine_textures_are_never_named() -> None:
    scene = pair(replace(CIRCLE, x=80, size=50, texture="dotted", texture_period=2))
    assert not any("striped" in text for text in references(scene, 0, longer=True))


def test_things_that_look_alike_cannot_be_told_apart() -> None:
    with pytest.raises(InputError, match=r"small red circle.*distinct=true"):
        refer(pair(replace(CIRCLE, x=80)), 0)


@pytest.mark.parametrize(
    ("x", "y", "answer"),
    [
        (10, 10, "top left"),
        (60, 10, "top"),
        (110, 10, "top right"),
        (10, 60, "left"),
        (60, 60, "center"),
        (110, 60, "right"),
        (10, 110, "bottom left"),
        (60, 110, "bottom"),
        (119.9, 119.9, "bottom right"),
    ],
)
def test_positions(x: float, y: float, answer: str) -> None:
    thing = replace(CIRCLE, x=x, y=y)
    assert position(pair(thing), thing) == answer
    assert has_clear_position(pair(thing), thing)


def test_a_thing_on_a_border_has_no_clear_position() -> None:
    assert not has_clear_position(pair(CIRCLE), replace(CIRCLE, x=41))
    assert not has_clear_position(pair(CIRCLE), replace(CIRCLE, y=79))


def test_articles() -> None:
    assert (article("orange thing"), article("red thing")) == ("an", "a")


def test_captions_name_everything_from_left_to_right() -> None:
    other = replace(CIRCLE, shape="star", colour="orange", texture="plain", x=10, y=100, size=50)
    scene = pair(other)
    assert describe(scene, 1) == "a large orange star at the bottom left"
    text = "a large orange star at the bottom left and a small red striped circle at the top left"
    spoken = {caption(scene, np.random.default_rng(seed)) for seed in range(20)}
    assert spoken == {text, f"a picture of {text}", f"there is {text}"}
    assert all(re.fullmatch(r"[a-z ]+", sentence) for sentence in spoken)
