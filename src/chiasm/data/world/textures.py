"""Textures: modulations of intensity with mean 0 and mean square 1 over a period.

Because the mean is zero over every period, a texture with a period of two pixels leaves no trace
when a picture is halved with any symmetric antialiasing filter: its only frequencies are the
highest that the pixel grid holds, in X, in Y or in both. That is what makes it visible to an eye
that reads the full picture and to no eye that reads half of it. The patterns are aligned with the
pixel grid for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Pattern = Callable[[NDArray[np.bool_], NDArray[np.bool_]], NDArray[np.float32]]
"""(columns bool (1, W), rows bool (H, 1): True in the first half of a period) -> float32 (H, W)."""

FINE_PERIOD = 2
"""Alternate pixels: the finest texture, and the only one that halving removes completely."""

CONTRAST = 0.25
"""Root mean square of a texture, as a part of the intensity it modulates."""

PEAK = CONTRAST * float(np.sqrt(3))
"""Largest modulation of any texture (a dot), as a part of the intensity."""


def _signs(half: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.where(half, np.float32(1), np.float32(-1))


def _plain(columns: NDArray[np.bool_], rows: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.zeros((rows.shape[0], columns.shape[1]), np.float32)


def _striped(columns: NDArray[np.bool_], rows: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.broadcast_to(_signs(columns), (rows.shape[0], columns.shape[1]))


def _banded(columns: NDArray[np.bool_], rows: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.broadcast_to(_signs(rows), (rows.shape[0], columns.shape[1]))


def _checkered(columns: NDArray[np.bool_], rows: NDArray[np.bool_]) -> NDArray[np.float32]:
    return _signs(columns) * _signs(rows)


def _dotted(columns: NDArray[np.bool_], rows: NDArray[np.bool_]) -> NDArray[np.float32]:
    # One quarter of the area is bright, three quarters are a third as much darker.
    return np.where(columns & rows, np.float32(np.sqrt(3)), np.float32(-1 / np.sqrt(3)))


TEXTURES: dict[str, Pattern] = {
    "plain": _plain,
    "striped": _striped,
    "banded": _banded,
    "checkered": _checkered,
    "dotted": _dotted,
}
"""Texture name -> pattern. The order is part of the held-out rule and of dense labels."""


def modulation(
    name: str, period: int, columns: NDArray[np.int64], rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the relative change of intensity that a texture makes on a window of pixels.

    Args:
        name: A texture of `TEXTURES`.
        period: Even number of pixels after which the pattern repeats in X and Y.
        columns: int64 (W,), X of each pixel from the texture's origin.
        rows: int64 (H,), Y of each pixel from the texture's origin.

    Returns:
        float32 (H, W), between -`PEAK` and `PEAK`, mean 0 over whole periods.
    """
    half = period // 2
    pattern = TEXTURES[name]((columns % period < half)[None, :], (rows % period < half)[:, None])
    return np.float32(CONTRAST) * pattern
