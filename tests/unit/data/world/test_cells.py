"""Dense labels: thing, background, or ignored, by the share of the cell."""

import numpy as np
import pytest

from chiasm.core.errors import GeometryError
from chiasm.data.world.cells import IGNORED, LABELS, cell_labels
from chiasm.data.world.render import Rendering
from chiasm.data.world.scene import Background, Scene, Thing

THINGS = (
    Thing("circle", "red", "striped", 8, x=20, y=20, size=28),
    Thing("star", "pink", "plain", 8, x=80, y=20, size=50),
)
SCENE = Scene(20, 50, Background("plain", ((90.0, 90.0, 90.0),)), THINGS)


def rendering(*shares: tuple[int, int]) -> Rendering:
    """One row of two 10 x 10 cells a pair: how many pixels each thing shows in it."""
    visible = np.zeros((2, 20, 50), bool)
    for cell, (first, second) in enumerate(shares):
        block = np.zeros(100, int)
        block[:first] = 1
        block[first : first + second] = 2
        for thing in (0, 1):
            visible[thing, :10, 10 * cell : 10 * cell + 10] = block.reshape(10, 10) == thing + 1
    return Rendering(np.zeros((20, 50, 3), np.uint8), visible, visible)


def test_shares_decide() -> None:
    labels = cell_labels(SCENE, rendering((35, 0), (34, 0), (9, 0), (5, 5), (40, 45)), 2, 5)
    circle, star = 1 + LABELS["shape"].index("circle"), 1 + LABELS["shape"].index("star")
    assert labels["shape"].dtype == np.int64
    assert labels["shape"].tolist() == [[circle, IGNORED, 0, IGNORED, star], [0] * 5]
    assert labels["colour"][0, 0] == 1 + LABELS["colour"].index("red")
    assert labels["colour"][0, 4] == 1 + LABELS["colour"].index("pink")
    assert labels["texture"][0].tolist() == [2, IGNORED, 0, IGNORED, 1]
    assert labels["size"][0, 4] == 1 + LABELS["size"].index("large")


def test_grid_must_divide_the_picture() -> None:
    with pytest.raises(GeometryError, match="3 x 5 cells does not divide a picture of 20 x 50"):
        cell_labels(SCENE, rendering(), 3, 5)
