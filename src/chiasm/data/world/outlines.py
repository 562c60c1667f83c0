"""Outlines of things: signed distance functions on a unit disc.

Each outline fits a disc of radius 1 around its own centre of area, so that a thing's centre is the
centroid of its whole mask and its size is the diameter of that disc.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Outline = Callable[[Plane, Plane], Plane]
"""(x right, y down) float32 in units of the radius -> signed distance, negative inside."""


def _circle(x: Plane, y: Plane) -> Plane:
    return np.sqrt(x * x + y * y) - np.float32(1)


def _ring(x: Plane, y: Plane) -> Plane:
    return np.abs(np.sqrt(x * x + y * y) - np.float32(0.72)) - np.float32(0.28)


def _square(x: Plane, y: Plane) -> Plane:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.8)


def _triangle(x: Plane, y: Plane) -> Plane:
    # Equilateral, apex up: the distance to the nearest of three lines at inradius 1/2.
    slope, flat = np.float32(np.sqrt(3) / 2), np.float32(0.5)
    return np.maximum(slope * np.abs(x) - flat * y, y) - flat


def _diamond(x: Plane, y: Plane) -> Plane:
    # Narrower than tall, so that no small tilt makes it a square.
    half = np.float32(0.68)
    return (np.abs(x) + half * np.abs(y) - half) / np.float32(np.hypot(1.0, 0.68))


def _cross(x: Plane, y: Plane) -> Plane:
    x, y = np.abs(x), np.abs(y)
    arm, reach = np.float32(0.33), np.float32(0.94)
    upright = np.maximum(x - arm, y - reach)
    return np.minimum(upright, np.maximum(x - reach, y - arm))


def _star(x: Plane, y: Plane) -> Plane:
    # Five points: the plane is folded into one tenth, which holds a single edge.
    step = np.float32(2 * np.pi / 5)
    angle = np.arctan2(x, -y)
    angle = np.abs(angle - step * np.round(angle / step))
    radius = np.sqrt(x * x + y * y)
    inner = 0.5
    tip, notch = (1.0, 0.0), (inner * np.cos(np.pi / 5), inner * np.sin(np.pi / 5))
    along = (notch[0] - tip[0], notch[1] - tip[1])
    length = np.hypot(*along)
    normal = (np.float32(along[1] / length), np.float32(-along[0] / length))
    across = (radius * np.cos(angle) - np.float32(1)) * normal[0] + radius * np.sin(angle) * normal[
        1
    ]
    return across.astype(np.float32)


SHAPES: dict[str, Outline] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "diamond": _diamond,
    "ring": _ring,
}
"""Shape name -> outline. The order is part of the held-out rule and of dense labels."""
