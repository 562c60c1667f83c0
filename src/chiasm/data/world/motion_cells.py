"""What each cell of each frame of a moving world shows and does: dense truth to learn seeing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chiasm.core.batch import IGNORE
from chiasm.data.world.motion import ACTIONS, Motion, Timeline
from chiasm.data.world.scene import COLOURS, SHAPES

MOTION_LABELS: dict[str, tuple[str, ...]] = {
    "shape": tuple(SHAPES),
    "colour": tuple(COLOURS),
    "act": tuple(ACTIONS),
}
"""Attribute -> its values; class 0 is "none", class i the value before i."""

_CORE = 0.3
"""From this scale on a thing that grows has shape and colour."""


def label_motion(
    timeline: Timeline, indices: Sequence[int], rows: int, columns: int
) -> dict[str, NDArray[np.int64]]:
    """Label the cells of some frames.

    A cell is labelled by the thing whose centre lies in it, the nearest of several; cells at the
    rim of a thing have no label, and neither have those of a thing that is just growing out of
    nothing. A thing behind its screen keeps its labels: whoever has watched knows them.

    Args:
        timeline: Where everything is.
        indices: The frames.
        rows: Cells from top to bottom.
        columns: Cells from left to right.

    Returns:
        By attribute of `MOTION_LABELS` int64 (T, rows, columns), `IGNORE` where nothing is said.
    """
    motion = timeline.motion
    labels = {name: np.zeros((len(indices), rows, columns), np.int64) for name in MOTION_LABELS}
    cell = motion.height / rows, motion.width / columns
    middles = [(np.arange(n) + 0.5) * side for n, side in zip((rows, columns), cell, strict=True)]
    doing = _doing(motion, indices)
    for place, index in enumerate(indices):
        nearest = np.full((rows, columns), np.inf)
        for thing, mover in enumerate(motion.movers):
            state = timeline.state(thing, int(index))
            if state.scale <= 0:
                continue
            half = mover.size * state.scale / 2
            down, across = np.abs(middles[0] - state.y), np.abs(middles[1] - state.x)
            touched = (down < half + cell[0] / 2)[:, None] & (across < half + cell[1] / 2)[None]
            inside = (down <= cell[0] / 2)[:, None] & (across <= cell[1] / 2)[None]
            distance = np.hypot(down[:, None], across[None])
            rim = touched & ~inside & np.isinf(nearest)
            for values in labels.values():
                values[place][rim] = IGNORE
            won = inside & (distance < nearest)
            nearest[won] = distance[won]
            known = state.scale >= _CORE
            said = {
                "shape": 1 + MOTION_LABELS["shape"].index(mover.shape) if known else IGNORE,
                "colour": 1 + MOTION_LABELS["colour"].index(mover.colour) if known else IGNORE,
                "act": doing[place][thing],
            }
            for name, value in said.items():
                labels[name][place][won] = value
    return labels


def _doing(motion: Motion, indices: Sequence[int]) -> list[list[int]]:
    """Return, for each frame and thing, the class of what it does; who is run into collides."""
    found = []
    for index in indices:
        row = [0] * len(motion.movers)
        for act in motion.acts:
            if act.start <= index < act.end:
                for thing in act.things:
                    row[thing] = 1 + MOTION_LABELS["act"].index(act.kind)
        found.append(row)
    return found
