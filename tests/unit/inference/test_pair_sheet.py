"""The sheet: every step is on it, where it says, and captions keep to their column."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFont

from chiasm.inference.answers import Answer
from chiasm.inference.pair_sheet import SIZE, TILE, _wrapped, draw_sheet
from chiasm.inference.pair_sights import PairSight

HEIGHT, WIDTH = 30, 60
IMAGE = Image.new("RGB", (WIDTH, HEIGHT), (10, 200, 30))
REBUILT = Image.new("RGB", (40, 40), (90, 90, 200))
DRAWN = Image.new("RGB", (WIDTH, HEIGHT), (250, 10, 250))


def sight(**changes: Any) -> PairSight:
    alpha = np.zeros((HEIGHT, WIDTH), np.float32)
    alpha[:, WIDTH // 2 :] = 1.0
    weights = np.zeros((3, 5), np.float32)
    weights[1, 2] = 1.0
    values: dict[str, Any] = {
        "alpha": alpha,
        "blended": np.full((HEIGHT, WIDTH, 3), (200, 150, 100), np.uint8),
        "aligned": np.full((HEIGHT, WIDTH, 3), (60, 50, 40), np.uint8),
        "boxes": {"original": (15.0, 5.0, 45.0, 25.0), "reconstruction": (10.0, 10.0, 30.0, 30.0)},
        "rules": {"original": "given", "reconstruction": "background"},
        "hidden": None,
        "view": (0.0, -15.0, 60.0, 45.0),
        "attention": {"all": weights, "thing": weights},
    }
    return PairSight(**{**values, **changes})


def tiles(sheet: Image.Image, count: int) -> list[np.ndarray[Any, Any]]:
    """The tiles of a sheet, found by the geometry it promises: left to right, four a row."""
    step = TILE + SIZE
    pixels = np.asarray(sheet)
    background = (pixels == 255).all(axis=2)
    # A tile's row begins where a coloured picture does in the first column.
    first = pixels[:, SIZE + 1]
    starts = [
        y
        for y in range(1, len(first))
        if not background[y, SIZE + 1] and background[y - 1, SIZE + 1] and _solid(pixels, y)
    ]
    found = []
    for index in range(count):
        top, left = starts[index // 4], SIZE + index % 4 * step
        found.append(pixels[top : top + TILE, left : left + TILE])
    return found


def _solid(pixels: np.ndarray[Any, Any], y: int) -> bool:
    """Whether a picture, not a letter, begins at row y of the first column."""
    return bool((pixels[y, SIZE : SIZE + TILE] != 255).any(axis=1).mean() > 0.9)


def test_each_step_is_on_the_sheet() -> None:
    answer = Answer("a cup", pair=sight())
    sheet = draw_sheet(IMAGE, REBUILT, answer, "What is it?", DRAWN)
    original, rebuilt, alpha, aligned, blend, attention, drawn = tiles(sheet, 7)
    assert sheet.width == 4 * (TILE + SIZE) + SIZE
    assert tuple(original[3, 3]) == (10, 200, 30) and tuple(rebuilt[3, 3]) == (90, 90, 200)
    assert tuple(aligned[3, 3]) == (60, 50, 40) and tuple(blend[3, 3]) == (200, 150, 100)
    assert tuple(drawn[3, 3]) == (250, 10, 250)
    # The box of the original: four times its pixels, left edge at 60, top edge at 20.
    vermilion = (213, 94, 0)
    for tile in (original, aligned):
        assert tuple(tile[60, 60]) == vermilion and tuple(tile[20, 100]) == vermilion
        assert tuple(tile[60, 90]) != vermilion
    assert tuple(rebuilt[100, 60]) == vermilion
    # Alpha: blue left, orange right.
    assert alpha[60, 30, 2] > alpha[60, 30, 0] and alpha[60, 200, 0] > alpha[60, 200, 2]
    # Attention: the middle cell alone is orange. Five cells across, three over a view of 60 x 60.
    assert attention[60, 120, 0] > attention[60, 120, 2]
    assert attention[60, 20, 0] < attention[60, 20, 2]


def test_what_was_not_made_is_not_shown() -> None:
    few = draw_sheet(IMAGE, REBUILT, Answer("", pair=sight(attention={})))
    more = draw_sheet(IMAGE, REBUILT, Answer("", pair=sight(attention={})), "", DRAWN)
    violet = (250, 10, 250)
    assert not (np.asarray(few) == violet).all(axis=2).any()
    assert (np.asarray(more) == violet).all(axis=2).sum() == TILE * TILE // 2
    assert few.size == more.size


def test_hidden_pixels_are_tinted() -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:, 50:] = True
    plain, marked = (
        tiles(draw_sheet(IMAGE, REBUILT, Answer("", pair=sight(hidden=given))), 1)[0]
        for given in (None, mask)
    )
    assert np.array_equal(plain[:110, :190], marked[:110, :190])
    assert not np.array_equal(plain[3, 230], marked[3, 230])


def test_long_words_and_captions_are_broken() -> None:
    font = ImageFont.load_default(SIZE)
    text = f"short {'x' * 300} end"
    lines = _wrapped(text, font, TILE)
    assert len(lines) > 3 and max(map(font.getlength, lines)) <= TILE
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    answer = Answer("word " * 200, pair=sight())
    assert (
        draw_sheet(IMAGE, REBUILT, answer).height
        > draw_sheet(IMAGE, REBUILT, replace(answer, text="word")).height
    )


def test_an_answer_about_no_pair_has_no_sheet() -> None:
    with pytest.raises(ValueError, match="of none"):
        draw_sheet(IMAGE, REBUILT, Answer("a cup"))
