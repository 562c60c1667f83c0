"""Masks on their picture: what is drawn where, and a legend that covers nothing."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from chiasm.inference.answers import Mask
from chiasm.inference.overlays import (
    COLOURS,
    colour_of,
    cut_out,
    draw_masks,
    grow,
    mask_image,
    middle_of,
    shrink,
)


def block(height: int, width: int, rows: slice, columns: slice, phrase: str = "x") -> Mask:
    array = np.zeros((height, width), bool)
    array[rows, columns] = True
    return Mask(array, 0.5, phrase)


def test_colour_inside_untouched_outside() -> None:
    image = Image.fromarray(np.full((211, 307, 3), 90, np.uint8))
    mask = block(211, 307, slice(50, 120), slice(60, 200), "a block")
    drawn = np.asarray(draw_masks(image, [mask]))
    assert drawn.shape[1] == 307 and drawn.shape[0] > 211
    blend = np.array([90 * 0.55 + part * 0.45 for part in COLOURS[0]])
    assert np.abs(drawn[60, 70].astype(float) - blend).max() <= 1
    far = np.ones((211, 307), bool)
    far[40:130, 50:210] = False
    assert (drawn[:211][far] == 90).all()
    assert tuple(drawn[50, 130]) == COLOURS[0]
    assert tuple(drawn[49, 130]) == (255, 255, 255)
    assert drawn[48, 130].max() < 40


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_borders_show_on_any_ground(shade: int) -> None:
    image = Image.fromarray(np.full((211, 307, 3), shade, np.uint8))
    drawn = np.asarray(draw_masks(image, [block(211, 307, slice(50, 120), slice(60, 200))]))
    light = drawn[47:53, 130].astype(float) @ (0.2126, 0.7152, 0.0722)
    assert light.max() - light.min() > 150


def test_the_legend_has_a_line_a_mask_and_fits() -> None:
    image = Image.fromarray(np.full((61, 83, 3), 90, np.uint8))
    masks = [block(61, 83, slice(5, 9), slice(5, 9), "a very long phrase " * 9) for _ in range(3)]
    one, three = (draw_masks(image, masks[:count]) for count in (1, 3))
    assert one.width == three.width == 83
    assert three.height - 61 > 2 * (one.height - 61)
    assert draw_masks(image, []).size == (83, 61)
    legend = np.asarray(three)[61:]
    for index in range(3):
        assert (legend == COLOURS[index]).all(-1).any()
    assert (legend[:, -2:] == 255).all()
    empty = Mask(np.zeros((61, 83), bool), 0.0, "none")
    assert draw_masks(image, [empty]).size == one.size


def test_growing_and_shrinking_stay_inside() -> None:
    mask = np.zeros((7, 11), bool)
    mask[3, 5] = True
    assert int(grow(mask, 1).sum()) == 5
    assert int(grow(mask, 2).sum()) == 13
    assert not shrink(mask, 1).any()
    whole = np.ones((7, 11), bool)
    assert grow(whole, 3).all() and shrink(whole, 3).all()
    assert int(shrink(grow(mask, 2), 1).sum()) == 5


def test_the_number_stands_on_the_mask() -> None:
    ring = np.ones((31, 31), bool)
    ring[5:26, 5:26] = False
    column, row = middle_of(ring)
    assert ring[row, column]


def test_layers_and_pictures_of_masks() -> None:
    mask = block(61, 83, slice(10, 30), slice(20, 50))
    layer = np.asarray(cut_out(mask, 1))
    assert layer.shape == (61, 83, 4)
    assert (layer[..., 3] > 0).sum() == mask.area
    assert tuple(layer[20, 30, :3]) == colour_of(1)
    assert 0 < layer[20, 30, 3] < 255 == layer[10, 30, 3]
    grey = np.asarray(mask_image(mask))
    assert grey.dtype == np.uint8 and np.array_equal(grey == 255, mask.array)
    assert colour_of(len(COLOURS)) == COLOURS[0]
