"""Pointing in a session: the picture is read once, and faults name what was given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chiasm import Session
from chiasm.core.errors import InputError
from chiasm.core.run_length import decode_run_length
from chiasm.inference.answers import Mask
from tests.unit.inference.pointers import COLOURS, Pointer, scene

BAR = (slice(11, 30), slice(13, 42))


@pytest.fixture
def session() -> Session:
    session = Session(Pointer())
    session.set(image=scene())
    return session


def test_a_picture_is_read_once_for_all_phrases(session: Session) -> None:
    model: Any = session.model
    assert model.read == []
    red, blue = session.point(["the red bar", "a blue block"])
    (again,) = session.point(["the red bar"])
    assert len(model.read) == 1
    assert np.array_equal(again.array, red.array)
    expected = np.zeros((61, 83), bool)
    expected[BAR] = True
    assert np.array_equal(red.array, expected)
    assert blue.array[40, 60] and not (red.array & blue.array).any()
    session.set(image=scene(47, 97))
    (other,) = session.point(["red"])
    assert len(model.read) == 2
    assert other.array.shape == (47, 97)


def test_what_a_mask_tells(session: Session) -> None:
    (red,) = session.point(["the red bar"])
    assert (red.phrase, red.score, red.area) == ("the red bar", 0.75, 19 * 29)
    assert red.box == (13.0, 11.0, 42.0, 30.0)
    assert np.array_equal(decode_run_length(red.rle), red.array)
    assert red.document() == {
        "phrase": "the red bar",
        "score": 0.75,
        "area": 551,
        "box": [13.0, 11.0, 42.0, 30.0],
        "rle": red.rle,
    }
    (nothing,) = session.point(["the green ball"])
    assert (nothing.area, nothing.box, nothing.document()["box"]) == (0, None, None)
    corner = Mask(np.eye(1, 5, dtype=bool), 1.0, "corner")
    assert corner.box == (0.0, 0.0, 1.0, 1.0)


def test_the_head_is_chosen_by_name_and_the_best_by_default(session: Session) -> None:
    fine, coarse = (session.point(["red"], mask=head)[0] for head in ("refined", "coarse"))
    (best,) = session.point(["red"])
    assert np.array_equal(best.array, fine.array)
    assert coarse.area > fine.area and not (fine.array & ~coarse.array).any()
    only = Session(Pointer(heads=("coarse",)))
    only.set(image=scene())
    assert only.point(["red"])[0].area == coarse.area
    with pytest.raises(InputError, match=r"mask 'refined' is not one of this model's: coarse\."):
        only.point(["red"], mask="refined")


@pytest.mark.parametrize(
    ("phrases", "message"),
    [
        ("the red bar", "phrases 'the red bar'; give a list of at least one phrase"),
        ([], r"phrases \[\]; give a list of at least one phrase"),
        (None, "phrases None; give a list"),
        (["a cup", "  "], "phrase 1 is '  '; each phrase names what to look for"),
        (["a cup", 3], "phrase 1 is 3; each phrase"),
    ],
)
def test_phrases_that_cannot_be_asked(session: Session, phrases: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        session.point(phrases)
    assert session.model.read == []  # type: ignore[attr-defined]


def test_there_must_be_a_picture() -> None:
    session = Session(Pointer())
    with pytest.raises(InputError, match=r"no image to point at; call set\(image=...\) first"):
        session.point(["red"])


class Wrong(Pointer):
    """Gives masks that do not fit."""

    def __init__(self, found: Any) -> None:
        super().__init__()
        self.found = found

    def point_at(self, reading: Any, phrases: Any, mask: str) -> Any:
        return self.found


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([], "the model gave 0 masks for 1 phrases"),
        ([(np.zeros((83, 61), bool), 0.5)], r"bool \(83, 61\); the image asks for bool \(61, 83\)"),
        ([(np.zeros((61, 83)), 0.5)], r"mask of 'red' is float64 \(61, 83\)"),
    ],
)
def test_masks_that_do_not_fit_are_refused(found: Any, message: str) -> None:
    session = Session(Wrong(found))
    session.set(image=scene())
    with pytest.raises(InputError, match=message):
        session.point(["red"])


def test_colours_of_the_stand_in_are_what_it_says() -> None:
    pixels = np.asarray(scene())
    assert tuple(pixels[11, 13]) == COLOURS["red"]
    assert tuple(pixels[52, 70]) == COLOURS["blue"]
