"""A gate map lies over the pixels that its cells cover."""

from __future__ import annotations

import numpy as np
from PIL import Image

from chiasm.inference.pictures import OPACITY, draw_map


def test_cells_are_coloured_where_they_look() -> None:
    image = Image.new("RGB", (30, 20), (90, 90, 90))
    drawn = np.asarray(draw_map(image, [[0.0, 1.0]], (5.0, 0.0, 25.0, 20.0))).astype(int)
    assert drawn.shape == (20, 30, 3)
    # Outside of the view the picture stays grey.
    assert (drawn[:, :5] == 90).all() and (drawn[:, 25:] == 90).all()
    blue, orange = drawn[10, 10], drawn[10, 20]
    assert blue[2] > blue[0] and orange[0] > orange[2]
    expected = np.round((1 - OPACITY) * 90 + OPACITY * np.array([38, 70, 130]))
    assert np.abs(blue - expected).max() <= 1
    assert (drawn[:, 5:15] == blue).all() and (drawn[:, 15:25] == orange).all()


def test_colour_tells_shares_apart_in_order() -> None:
    image = Image.new("RGB", (50, 10), (90, 90, 90))
    shares = [[0.0, 0.25, 0.5, 0.75, 1.0]]
    drawn = np.asarray(draw_map(image, shares, (0.0, 0.0, 50.0, 10.0))).astype(int)
    warmth = (drawn[5, 5::10, 0] - drawn[5, 5::10, 2]).tolist()
    assert warmth == sorted(warmth) and len(set(warmth)) == 5
