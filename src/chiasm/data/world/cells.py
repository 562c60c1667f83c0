"""Dense labels: what each cell of a grid shows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chiasm.core.errors import GeometryError
from chiasm.data.world.render import Rendering
from chiasm.data.world.scene import COLOURS, SHAPES, SIZES, TEXTURES, Scene

IGNORED = -100
"""Label of a cell that is neither clearly a thing nor clearly background; losses skip it."""

THING_FROM = 0.35
BACKGROUND_BELOW = 0.10

LABELS: dict[str, tuple[str, ...]] = {
    "shape": tuple(SHAPES),
    "colour": tuple(COLOURS),
    "texture": tuple(TEXTURES),
    "size": tuple(SIZES),
}
"""Attribute -> its words; label 0 is background and label 1 + i is word i."""


def cell_labels(
    scene: Scene, rendering: Rendering, rows: int, columns: int
) -> dict[str, NDArray[np.int64]]:
    """Label each cell of a grid over the picture.

    The label is that of the thing that covers most of the cell, if it covers at least 35 % of it;
    0 where all things together cover less than 10 %; `IGNORED` in between.

    Args:
        scene: The scene.
        rendering: Its masks.
        rows: Cells from top to bottom; must divide the height.
        columns: Cells from left to right; must divide the width.

    Returns:
        By attribute of `LABELS`, int64 (rows, columns).

    Raises:
        GeometryError: The grid does not divide the picture into whole pixels.
    """
    things, height, width = rendering.visible.shape
    if rows < 1 or columns < 1 or height % rows or width % columns:
        raise GeometryError(
            f"a grid of {rows} x {columns} cells does not divide a picture of {height} x {width} "
            "pixels; choose divisors of its height and width"
        )
    blocks = rendering.visible.reshape(things, rows, height // rows, columns, width // columns)
    covered = blocks.mean((2, 4))
    most = covered.argmax(0)
    is_thing = covered.max(0) >= THING_FROM
    is_background = covered.sum(0) < BACKGROUND_BELOW
    labels = {}
    for attribute, words in LABELS.items():
        of_thing = [1 + words.index(scene.attributes(index)[attribute]) for index in range(things)]
        label = np.where(is_thing, np.asarray(of_thing, np.int64)[most], IGNORED)
        labels[attribute] = np.where(is_background, 0, label)
    return labels
