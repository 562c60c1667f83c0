"""Dense maps carried between frames: a view's cells, the original image, another grid's cells.

A map of h x w values over an area has one value in the middle of each of h x w equal boxes of it.
Every frame here is an axis-aligned, scaled and moved copy of the others, so a map is carried over
by reading it, along each axis on its own, at the places where the target's boxes have their middle.
No size is rounded on the way, so nothing moves by a part of a cell.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chiasm.core.errors import GeometryError
from chiasm.core.grid import ImageGeometry

_STEPS = float(1 << 32)
"""Places are rounded to this part of a value, so that an identity reads exactly on the values."""


def image_size(size: tuple[int, int], geometry: ImageGeometry) -> tuple[int, int]:
    """Return how many values the image has at the density of a map over its view.

    Args:
        size: (height, width) of a map that covers the view of `geometry`, padding included.
        geometry: Where the view lies.

    Returns:
        (height, width), each at least 1: the nearest whole numbers.
    """
    left, top, right, bottom = geometry.view_box()
    height = round(size[0] * geometry.original_height / (bottom - top))
    width = round(size[1] * geometry.original_width / (right - left))
    return max(1, height), max(1, width)


def view_to_image(
    logits: Tensor, geometry: ImageGeometry, size: tuple[int, int] | None = None
) -> Tensor:
    """Carry logits from a view to exactly the original image: "un-pad", without rounding.

    Args:
        logits: float (P, h, w) over the view of `geometry`, padding included.
        geometry: Where the view lies.
        size: (height, width) of the result; by default the density of `logits` is kept.

    Returns:
        float (P, height, width) over the whole original image, bilinear between the values of
        `logits`. Places that the view does not show (a crop) hold min(-1, smallest logit) of their
        own map.

    Raises:
        GeometryError: `logits` has not three axes.
    """
    _check(logits, "logits")
    height, width = size or image_size((logits.shape[1], logits.shape[2]), geometry)
    view = geometry.view_box()
    image = (0.0, 0.0, float(geometry.original_width), float(geometry.original_height))
    lowest = logits.detach().amin(dim=(1, 2)).clamp(max=-1.0)
    return _carry(logits, view, image, (height, width), lowest)


def image_to_view(
    values: Tensor, geometry: ImageGeometry, size: tuple[int, int], outside: float = 0.0
) -> Tensor:
    """Carry a map over the original image to a view: the inverse of `view_to_image`.

    Args:
        values: (P, h, w) over the whole original image. Float maps are read bilinearly, others
            (truth: bool, whole numbers) at the nearest value.
        geometry: Where the view lies.
        size: (height, width) of the result.
        outside: What padding holds.

    Returns:
        (P, height, width) over the view, padding included, of the type of `values`.

    Raises:
        GeometryError: `values` has not three axes.
    """
    _check(values, "values")
    image = (0.0, 0.0, float(geometry.original_width), float(geometry.original_height))
    fill = torch.full((len(values),), outside, device=values.device).to(values.dtype)
    return _carry(values, image, geometry.view_box(), size, fill)


def resample_cells(
    values: Tensor, source: ImageGeometry, target: ImageGeometry, outside: float = 0.0
) -> Tensor:
    """Carry a map of one grid's cells to the cells of another grid of the same image.

    Args:
        values: float (C, source.rows, source.columns).
        source: The grid of `values`.
        target: The grid asked for.
        outside: What cells hold whose middle the source does not show.

    Returns:
        float (C, target.rows, target.columns), the values at the middles of the target's cells.

    Raises:
        GeometryError: `values` has not the source's cells, or the grids are of two images.
    """
    if tuple(values.shape[1:]) != (source.rows, source.columns):
        raise GeometryError(
            f"resample_cells: values of shape {tuple(values.shape)} for a grid of {source.rows} x "
            f"{source.columns} cells; give (channels, rows, columns)"
        )
    sizes = [(g.original_height, g.original_width) for g in (source, target)]
    if sizes[0] != sizes[1]:
        raise GeometryError(
            f"resample_cells: the grids are of images of {sizes[0]} and {sizes[1]} pixels; both "
            "must be of the same image"
        )
    fill = values.new_full((len(values),), outside)
    size = (target.rows, target.columns)
    return _carry(values, source.view_box(), target.view_box(), size, fill)


def _carry(
    values: Tensor,
    source: tuple[float, float, float, float],
    target: tuple[float, float, float, float],
    size: tuple[int, int],
    outside: Tensor,
) -> Tensor:
    """Read maps (P, h, w) over the box `source` at the middles of `size` boxes of `target`.

    Boxes are XYXY in original pixels; `outside` (P,) fills what lies beyond `source`.
    """
    down, inside_down = _places(source[1::2], target[1::2], values.shape[1], size[0])
    across, inside_across = _places(source[0::2], target[0::2], values.shape[2], size[1])
    found = _read(_read(values, down, 1), across, 2)
    inside = inside_down[:, None] & inside_across[None, :]
    if bool(inside.all()):
        return found
    return torch.where(inside.to(values.device), found, outside[:, None, None])


def _places(
    source: tuple[float, ...], target: tuple[float, ...], length: int, count: int
) -> tuple[Tensor, Tensor]:
    """Return, for one axis, where to read and whether that lies inside.

    Returns:
        float64 (count,), places in units of values with value i at i; and bool (count,).
    """
    middles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    pixels = target[0] + middles * (target[1] - target[0])
    places = (pixels - source[0]) / (source[1] - source[0]) * length - 0.5
    places = (places * _STEPS).round() / _STEPS
    return places.clamp(0, length - 1), (places >= -0.5) & (places <= length - 0.5)


def _read(values: Tensor, places: Tensor, axis: int) -> Tensor:
    """Read along an axis at places float64 (count,): linear for floats, nearest for the rest."""
    if not values.is_floating_point():
        return values.index_select(axis, (places + 0.5).floor().long().to(values.device))
    before = places.floor()
    share = (places - before).to(values)
    first = before.long().to(values.device)
    second = (first + 1).clamp(max=values.shape[axis] - 1)
    shape = [1, 1, 1]
    shape[axis] = -1
    low, high = values.index_select(axis, first), values.index_select(axis, second)
    return torch.lerp(low, high, share.view(shape).expand_as(low))


def _check(values: Tensor, name: str) -> None:
    if values.dim() != 3:
        raise GeometryError(
            f"{name} of shape {tuple(values.shape)}; give three axes (maps, height, width)"
        )
