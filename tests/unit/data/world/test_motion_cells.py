"""Dense truth of moving worlds: whose cell it is, where rims lie, what growing things show."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from chiasm.core.batch import IGNORE
from chiasm.data.world.motion import Act, Motion, Mover, Timeline
from chiasm.data.world.motion_cells import MOTION_LABELS, label_motion

SIDE = 10
"""Pixels of a cell."""

Table = list[list[int]]


def thing(colour: str, x: float, y: float, size: float = 8.0, shape: str = "circle") -> Mover:
    return Mover(shape, colour, "plain", 4, x, y, size)


def labels(*things: Mover, acts: tuple[Act, ...] = (), frame: int = 0) -> dict[str, Table]:
    """Label five rows of seven cells."""
    motion = Motion(5 * SIDE, 7 * SIDE, 10.0, 40, "general", things, acts)
    found = label_motion(Timeline(motion), [frame], 5, 7)
    return {name: table[0].tolist() for name, table in found.items()}


def told(table: Table) -> dict[tuple[int, int], int]:
    """Return what is not none, by row and column."""
    places = itertools.product(range(5), range(7))
    return {place: table[place[0]][place[1]] for place in places if table[place[0]][place[1]]}


def value(name: str, word: str) -> int:
    return 1 + MOTION_LABELS[name].index(word)


def test_a_thing_within_its_cell_has_no_rim() -> None:
    found = labels(thing("red", 35, 25, size=8, shape="star"))
    assert told(found["colour"]) == {(2, 3): value("colour", "red")}
    assert told(found["shape"]) == {(2, 3): value("shape", "star")}
    assert told(found["act"]) == {}


def test_a_thing_smaller_than_its_cell_has_the_whole_of_it() -> None:
    found = labels(thing("red", 38, 28, size=2))
    assert told(found["colour"]) == {(2, 3): value("colour", "red")}


def test_a_thing_that_ends_where_its_cell_does_has_no_rim() -> None:
    assert [*told(labels(thing("red", 35, 25, size=SIDE))["colour"])] == [(2, 3)]


def test_cells_need_not_be_square() -> None:
    motion = Motion(5 * SIDE, 7 * 12, 10.0, 40, "general", (thing("red", 6.5 * 12, 45),), ())
    found = label_motion(Timeline(motion), [0], 5, 7)
    assert told(found["colour"][0].tolist()) == {(4, 6): value("colour", "red")}


def test_cells_at_the_rim_have_no_label_and_others_show_nothing() -> None:
    around = {(2 + down, 3 + across) for down in (-1, 0, 1) for across in (-1, 0, 1)} - {(2, 3)}
    for table in labels(thing("red", 35, 25, size=14)).values():
        assert {place for place, label in told(table).items() if label == IGNORE} == around


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(
    ("red", "blue"),
    [((35, 26), (38, 28)), ((38, 25), (35, 29)), ((35, 28), (39, 25)), ((37, 27), (35, 29))],
    ids=["both", "across", "down", "slanting"],
)
def test_of_two_things_in_a_cell_the_nearer_one_is_told(
    red: tuple[int, int], blue: tuple[int, int], order: int
) -> None:
    things = (thing("red", *red), thing("blue", *blue))[:: 1 - 2 * order]
    assert labels(*things)["colour"][2][3] == value("colour", "red")


@pytest.mark.parametrize("order", [0, 1])
def test_the_rim_of_one_thing_takes_no_cell_of_another(order: int) -> None:
    things = (thing("red", 35, 25), thing("blue", 45, 25, size=14))[:: 1 - 2 * order]
    colours = labels(*things)["colour"]
    assert colours[2][3:5] == [value("colour", "red"), value("colour", "blue")]
    assert colours[1][3] == IGNORE


def test_what_is_just_growing_says_what_it_does_and_not_how_it_looks() -> None:
    acts = (Act("appear", 0, 0, 10),)
    for frame, known in ((2, False), (3, True), (9, True)):
        found = labels(thing("red", 35, 25), acts=acts, frame=frame)
        assert found["colour"][2][3] == (value("colour", "red") if known else IGNORE)
        assert found["shape"][2][3] == (value("shape", "circle") if known else IGNORE)
        assert found["act"][2][3] == value("act", "appear")
    # Its rim grows with it.
    small = labels(thing("red", 35, 25, size=14), acts=acts, frame=3)
    assert [*told(small["colour"])] == [(2, 3)]
    later = (Act("appear", 0, 5, 10),)
    assert told(labels(thing("red", 35, 25), acts=later, frame=4)["colour"]) == {}


def test_an_act_fills_its_frames_and_who_is_run_into_collides() -> None:
    things = (thing("red", 15, 25), thing("blue", 55, 25))
    acts: tuple[Any, ...] = (Act("hide", 0, 3, 7), Act("collide", 1, 20, 24, other=0))
    for frame, first in ((2, 0), (3, "hide"), (6, "hide"), (7, 0)):
        found = labels(*things, acts=acts, frame=frame)
        assert found["act"][2][1] == (value("act", first) if isinstance(first, str) else 0)
        # What is behind its screen keeps its looks.
        assert found["colour"][2][1] == value("colour", "red")
    both = labels(*things, acts=acts, frame=20)["act"]
    assert sorted(told(both).values())[-2:] == [value("act", "collide")] * 2
