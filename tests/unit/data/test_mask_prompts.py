"""Prompts drawn from truth: they tell of it, are spoilt as asked, and are the same each time."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from chiasm.core.config import read_config
from chiasm.core.errors import ConfigError
from chiasm.data.mask_prompts import (
    KINDS,
    PromptDrawing,
    draw_coarse,
    draw_prompts,
    tight_box,
)

NONE = np.zeros((0, 50, 70), np.bool_)
CLEAN = PromptDrawing(
    shift=0, lost=0, leak=0, noise=0, threshold=(0.5, 0.5), gain=(5, 5), cells=(14, 14)
)


def disc(height: int = 50, width: int = 70, x: float = 30, y: float = 20) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:height, :width] + 0.5
    found: NDArray[np.bool_] = (columns - x) ** 2 + (rows - y) ** 2 < 15**2
    return found


def only(kind: str, **settings: object) -> PromptDrawing:
    return PromptDrawing.model_validate({"shares": {kind: 1.0}, **settings})


def iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    return float((first & second).sum() / (first | second).sum())


def at_side(mask: NDArray[np.bool_], side: int = 64) -> NDArray[np.bool_]:
    rows = ((np.arange(side) + 0.5) * mask.shape[0] / side).astype(int)
    columns = ((np.arange(side) + 0.5) * mask.shape[1] / side).astype(int)
    return mask[rows][:, columns]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_kind_gives_its_prompts_and_no_other(kind: str) -> None:
    found = draw_prompts(disc(), NONE, np.random.default_rng(0), only(kind))
    assert (found.coarse is not None) == ("mask" in KINDS[kind])
    assert (found.box is not None) == ("box" in KINDS[kind])
    assert (found.points is not None) == ("points" in KINDS[kind])
    assert (found.labels is not None) == ("points" in KINDS[kind])


def test_kinds_are_drawn_in_proportion() -> None:
    drawing = PromptDrawing(shares={"box": 3.0, "mask": 1.0, "points": 0.0})
    rng = np.random.default_rng(0)
    drawn = [draw_prompts(disc(), NONE, rng, drawing) for _ in range(400)]
    # 300 expected, deviation 8.7.
    assert 270 < sum(one.box is not None for one in drawn) < 330
    assert not any(one.points is not None for one in drawn)


def test_the_same_chance_gives_the_same_prompts() -> None:
    first, second = (
        draw_prompts(disc(), NONE, np.random.default_rng(3), only("all")) for _ in range(2)
    )
    np.testing.assert_array_equal(first.coarse, second.coarse)
    np.testing.assert_array_equal(first.box, second.box)
    np.testing.assert_array_equal(first.points, second.points)


def test_a_clean_coarse_mask_is_the_truth_at_the_detail_of_cells() -> None:
    coarse = draw_coarse(disc(), NONE, np.random.default_rng(0), CLEAN)
    assert coarse.shape == (64, 64)
    assert coarse.dtype == np.float32
    # Measured 0.92: cells of 3.6 x 5 pixels.
    assert iou(coarse > 0, at_side(disc())) > 0.9
    # A full cell is (1 - 0.5) * 5, an empty one -(0.5 * 5).
    assert coarse.max() == pytest.approx(2.5)
    assert coarse.min() == pytest.approx(-2.5)


@pytest.mark.parametrize(
    "spoilt", [{"shift": 1.0}, {"lost": 0.6}, {"noise": 1.5}, {"cells": (3, 3)}]
)
def test_each_way_of_spoiling_spoils(spoilt: dict[str, object]) -> None:
    clean, worse = [], []
    drawing = PromptDrawing.model_validate({**CLEAN.model_dump(), **spoilt})
    for seed in range(12):
        truth = at_side(disc())
        for settings, found in ((CLEAN, clean), (drawing, worse)):
            coarse = draw_coarse(disc(), NONE, np.random.default_rng(seed), settings)
            found.append(iou(coarse > 0, truth))
    assert np.mean(worse) < np.mean(clean) - 0.03


def test_a_leak_goes_into_another_thing() -> None:
    other = disc(x=60, y=40)
    leaking = CLEAN.model_copy(update={"leak": 1.0, "threshold": (0.05, 0.05)})
    coarse = draw_coarse(disc(), other[None], np.random.default_rng(0), leaking)
    assert (coarse > 0)[at_side(other)].mean() > 0.9
    tight = CLEAN.model_copy(update={"threshold": (0.05, 0.05)})
    alone = draw_coarse(disc(), other[None], np.random.default_rng(0), tight)
    assert (alone > 0)[at_side(other & ~disc())].mean() < 0.2


def test_boxes_are_of_the_truth_or_of_the_coarse_mask() -> None:
    drawing = PromptDrawing.model_validate(
        {**CLEAN.model_dump(), "shares": {"box": 1.0}, "box_shift": 0.0}
    )
    rng = np.random.default_rng(0)
    boxes = {tuple(draw_prompts(disc(), NONE, rng, drawing).box.tolist()) for _ in range(30)}  # type: ignore[union-attr]
    tight = tuple(float(edge) for edge in tight_box(disc()))
    assert tight == (15.0, 5.0, 45.0, 35.0)
    assert tight in boxes
    assert len(boxes) == 2
    (other,) = boxes - {tight}
    # The coarse mask's box, in original pixels: within a cell of 5 x 3.6 pixels.
    assert np.abs(np.array(other) - tight).max() < 5


def test_moved_boxes_stay_on_the_image() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        box = draw_prompts(disc(x=5, y=5), NONE, rng, only("box", box_shift=0.5)).box
        assert box is not None
        assert (box >= 0).all()
        assert (box <= [70, 50, 70, 50]).all()


def test_points_lie_where_their_labels_say() -> None:
    rng = np.random.default_rng(0)
    labels = []
    for _ in range(60):
        found = draw_prompts(disc(), NONE, rng, only("points", points=3))
        assert found.points is not None
        assert found.labels is not None
        columns, rows = (found.points - 0.5).astype(int).T
        assert (disc()[rows, columns] == (found.labels == 1)).all()
        assert found.labels[0] == 1
        labels.append(len(found.labels))
    assert set(labels) == {1, 2, 3}


def test_a_mask_of_everything_has_no_point_beside_it() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        found = draw_prompts(np.ones((5, 7), np.bool_), NONE, rng, only("points"))
        assert found.labels is not None
        assert found.labels.all()


def test_faults_are_told() -> None:
    with pytest.raises(ConfigError, match=r"\['scribble'\] given; known: mask, box, points"):
        read_config(PromptDrawing, {"shares": {"scribble": 1}}, "drawing")
    with pytest.raises(ConfigError, match="one more than 0"):
        read_config(PromptDrawing, {"shares": {"box": 0}}, "drawing")
