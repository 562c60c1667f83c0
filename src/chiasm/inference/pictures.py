"""Pictures in and out: what a caller may give as an image, and a gate map laid over one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chiasm.core.errors import InputError
from chiasm.data.media import load_image

ALLOWED = "a path, a PIL image, or an array uint8 (height, width, 3) in [0, 255]"

OPACITY = 0.65
"""Of a map over a greyed picture."""

# Shares 0, 1/2 and 1: readable in grey and by the colour-blind.
_SCALE = np.array([[38, 70, 130], [236, 232, 224], [196, 98, 16]], dtype=np.float64)


def read_picture(source: object, name: str = "image") -> Image.Image:
    """Read what a caller gave as an image.

    Args:
        source: A path, a PIL image, or an array HWC uint8 in [0, 255].
        name: What to call it in messages.

    Returns:
        A PIL image of mode RGB.

    Raises:
        InputError: It is of another type, shape or dtype.
        MediaError: The file is missing or no image.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
            raise InputError(
                f"{name} is an array {source.dtype} {source.shape}; allowed: {ALLOWED}"
            )
        return load_image(source)
    if isinstance(source, str | Path | Image.Image):
        return load_image(source)
    raise InputError(f"{name} is of type {type(source).__name__}; allowed: {ALLOWED}")


def draw_map(
    image: Image.Image,
    shares: Sequence[Sequence[float]],
    view: tuple[float, float, float, float],
) -> Image.Image:
    """Lay a map of shares over a greyed picture.

    Args:
        image: The original image.
        shares: Rows of shares in [0, 1], one a cell.
        view: The box that the cells cover, XYXY in pixels of `image`. What lies outside of the
            view was not seen and stays grey.

    Returns:
        RGB in the size of `image`: blue for share 0, pale for one half, orange for 1.
    """
    cells = Image.fromarray(_coloured(np.asarray(shares, dtype=np.float64)))
    left, top, right, bottom = (round(side) for side in view)
    size = (max(1, right - left), max(1, bottom - top))
    grey = image.convert("L").convert("RGB")
    layer = grey.copy()
    layer.paste(cells.resize(size, Image.Resampling.NEAREST), (left, top))
    return Image.blend(grey, layer, OPACITY)


def _coloured(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return uint8 (rows, columns, 3) for shares float (rows, columns) in [0, 1]."""
    stops = np.linspace(0, 1, len(_SCALE))
    channels = [np.interp(shares, stops, _SCALE[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)
