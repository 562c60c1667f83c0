"""Scenes: sizes in words, the plain form, and the fingerprint."""

import json
from dataclasses import replace

import pytest

from chiasm.data.world.scene import SIZES, Background, Scene, Thing, fingerprint

THING = Thing("circle", "red", "striped", 8, x=30.0, y=41.0, size=29.0)
SCENE = Scene(101, 103, Background("plain", ((90.0, 91.0, 92.0),)), (THING,), noise=2.0)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("end", [0, 1])
def test_both_ends_of_a_range_carry_its_name(name: str, end: int) -> None:
    size = SIZES[name][end] * 101
    assert replace(SCENE, things=(replace(THING, size=size),)).size_word(0) == name


def test_sizes_are_well_apart() -> None:
    assert SIZES["large"][0] > 1.3 * SIZES["small"][1]


def test_only_a_patterned_thing_at_the_finest_period_is_fine() -> None:
    assert not THING.fine
    assert replace(THING, texture_period=2).fine
    assert not replace(THING, texture_period=2, texture="plain").fine


def test_plain_form_is_json() -> None:
    plain = json.loads(json.dumps(SCENE.to_plain()))
    assert plain["things"][0]["texture_period"] == 8
    assert plain["height"] == 101


def test_fingerprint_sees_what_is_shown_and_not_the_noise() -> None:
    same = replace(SCENE, noise=3.0, noise_seed=5)
    moved = replace(SCENE, things=(replace(THING, x=30.01),))
    assert fingerprint(same) == fingerprint(SCENE)
    assert fingerprint(moved) != fingerprint(SCENE)
