"""Where the pixels of a phrase come from: arrays, run lengths, polygons, PNG files.

A source holds a few values and reads pixels when it is asked, so a dataset of many masks stays
small and can be sent to loader processes. Sources name themselves (`where`) in messages;
`read_mask` adds the phrase, and checks the mask against its image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from chiasm.core.errors import DataError, InputError, MediaError
from chiasm.core.run_length import decode_run_length
from chiasm.core.samples import MaskSource
from chiasm.data.conversation import shown
from chiasm.data.media import MAX_PIXELS, load_stored

_LABEL_MODES = ("1", "L", "P", "I", "I;16", "RGB")
"""Modes of PIL whose values are labels, one channel or three equal ones."""

FILES_KEPT = 8
"""Decoded label files a process holds, so that the phrases of one image decode it once."""


@dataclass(frozen=True, eq=False)
class ArrayMask:
    """A mask in memory.

    Attributes:
        array: bool (H, W) in original pixels.
        where: What to call it in messages.
    """

    array: NDArray[np.bool_]
    where: str = "mask"

    def read(self) -> NDArray[np.bool_]:
        """Return bool (H, W).

        Raises:
            DataError: The array is not bool or has not two axes.
        """
        if self.array.dtype != np.bool_ or self.array.ndim != 2:
            raise DataError(
                f"{self.where}: array {self.array.dtype} {self.array.shape}; a mask is bool "
                "(height, width), compare scores with a threshold first"
            )
        return self.array


@dataclass(frozen=True, eq=False)
class RunLengthMask:
    """A COCO run-length mask.

    Attributes:
        code: `size` [height, width] and `counts`: a list of run lengths, or compressed text.
        where: What to call it in messages.
    """

    code: Mapping[str, Any]
    where: str = "run-length mask"

    def read(self) -> NDArray[np.bool_]:
        """Return bool (H, W).

        Raises:
            DataError: The code is malformed, or its runs do not add up to its size.
        """
        _check_pixels(self.where, self.code.get("size"))
        try:
            return decode_run_length(self.code, self.where)
        except InputError as error:
            raise DataError(str(error)) from error


@dataclass(frozen=True, eq=False)
class PolygonMask:
    """The union of polygons, filled as the COCO API fills them.

    Attributes:
        polygons: Each x0, y0, x1, y1, ... in original pixels, at least three points.
        height: Of the image.
        width: Of the image.
        where: What to call it in messages.
    """

    polygons: tuple[tuple[float, ...], ...]
    height: int
    width: int
    where: str = "polygons"

    def read(self) -> NDArray[np.bool_]:
        """Return bool (height, width).

        Raises:
            DataError: There is no polygon, or one is not at least three points of finite numbers.
        """
        if fault := polygon_fault(self.polygons):
            raise DataError(f"{self.where}: {fault}")
        _check_pixels(self.where, [self.height, self.width])
        codes = coco.frPyObjects([list(p) for p in self.polygons], self.height, self.width)
        return decode_run_length(coco.merge(codes), self.where)


@dataclass(frozen=True, eq=False)
class PanopticMask:
    """Segments of a panoptic PNG: the union of those with the ids given.

    Attributes:
        path: RGB PNG in which a pixel of segment id has id = R + 256 G + 65536 B.
        ids: The segments meant.
    """

    path: Path
    ids: tuple[int, ...]

    def read(self) -> NDArray[np.bool_]:
        """Return bool (H, W).

        Raises:
            DataError: The file is no RGB PNG, or holds no pixel of one of the ids.
            MediaError: The file is missing, truncated or no image.
        """
        segments, there = _read_segments(self.path, _stamp(self.path))
        if lacking := sorted(set(self.ids) - there):
            found = shown([value for value in sorted(there) if value])
            raise DataError(
                f"{self.path}: no pixel of segment {', '.join(map(str, lacking))}; it has the "
                f"segments {found}. The file and its JSON do not belong together, or one is older"
            )
        mask = np.zeros(segments.shape, np.bool_)
        for identifier in self.ids:
            mask |= segments == identifier
        return mask


@lru_cache(maxsize=FILES_KEPT)
def _read_segments(path: Path, stamp: int) -> tuple[NDArray[np.int32], frozenset[int]]:
    """Return the segment of each pixel, int32 (H, W), and which there are; as `_read_labels`."""
    values, _ = _labels(path)
    if values.ndim != 3:
        raise DataError(
            f"{path}: a PNG of one channel; a panoptic PNG is RGB, with the id of a "
            "segment as R + 256 G + 65536 B"
        )
    segments = values @ np.array([1, 256, 65536], np.int32)
    segments.setflags(write=False)
    return segments, frozenset(np.unique(segments).tolist())


@dataclass(frozen=True, eq=False)
class PngMask:
    """A PNG whose values are labels.

    Attributes:
        path: PNG of one channel (1-bit, grey, 16-bit grey, or palette, whose indices count), or of
            three equal ones.
        values: The labels that belong to the mask; none for all but 0.
    """

    path: Path
    values: tuple[int, ...] = ()

    def read(self) -> NDArray[np.bool_]:
        """Return bool (H, W).

        Raises:
            DataError: The file is no PNG, or holds colours.
            MediaError: The file is missing, truncated or no image.
        """
        values, mode = _labels(self.path)
        return _belonging(values, self.values, f"{self.path}: a PNG of mode {mode}")


@dataclass(frozen=True, eq=False)
class PictureMask:
    """A picture in memory whose values are labels: what `PngMask` is of a file, by the same rule.

    Attributes:
        picture: A PIL image of a mode that `PngMask` reads.
        where: What to call it in messages.
    """

    picture: Image.Image
    where: str = "mask"

    def read(self) -> NDArray[np.bool_]:
        """Return bool (H, W), True for every value but 0.

        Raises:
            DataError: The picture holds colours or transparency, or was read from a JPEG file.
        """
        _check_labels(self.picture, self.where, ("PNG", "BMP", "GIF", "TIFF", None))
        told = f"{self.where}: a picture of mode {self.picture.mode}"
        return _belonging(np.asarray(self.picture).astype(np.int32), (), told)


@dataclass(frozen=True, eq=False)
class UnionMask:
    """Pixels of any of several masks of one size, for a phrase that means several things.

    Attributes:
        masks: At least one.
        where: What to call it in messages.
    """

    masks: tuple[MaskSource, ...]
    where: str = "union"

    def read(self) -> NDArray[np.bool_]:
        """Return bool (H, W).

        Raises:
            DataError: A mask is broken, there is none, or their sizes differ.
            MediaError: A file is missing or no image.
        """
        read = [mask.read() for mask in self.masks]
        sizes = sorted({mask.shape for mask in read})
        if len(sizes) != 1:
            raise DataError(
                f"{self.where}: {len(read)} masks of the sizes {sizes}; give at least one, all in "
                "the pixels of one image"
            )
        union: NDArray[np.bool_] = np.logical_or.reduce(read)
        return union


def polygon_fault(polygons: Any) -> str:
    """Return what is wrong with polygons, or an empty text."""
    if not isinstance(polygons, list | tuple) or not polygons:
        return f"{shown(polygons)}; a list of at least one polygon [x0, y0, x1, y1, ...] is needed"
    for number, polygon in enumerate(polygons):
        sound = isinstance(polygon, list | tuple) and all(
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            for value in polygon
        )
        if not sound or len(polygon) < 6 or len(polygon) % 2:
            return (
                f"polygon {number} is {shown(polygon)}; allowed: x0, y0, x1, y1, ... of at least "
                "three points, finite numbers"
            )
        if max(map(abs, polygon)) > 2**20:
            return f"polygon {number} has a coordinate of {max(polygon, key=abs)}; give pixels"
    return ""


def read_segmentation(value: Any, height: int, width: int, where: str) -> MaskSource | str:
    """Return the source that a COCO `segmentation` stands for, or what is wrong with it.

    Args:
        value: Polygons, or a run-length mask with `size` and `counts`.
        height: Of the image.
        width: Of the image.
        where: What to call it in messages.
    """
    if isinstance(value, Mapping):
        if lacking := [key for key in ("size", "counts") if key not in value]:
            return f"{shown(value)} without {' and '.join(lacking)}"
        return RunLengthMask(value, where)
    fault = polygon_fault(value)
    return fault or PolygonMask(tuple(map(tuple, value)), height, width, where)


def read_mask(
    source: MaskSource, height: int, width: int, name: str, *, may_be_empty: bool = False
) -> NDArray[np.bool_]:
    """Read the mask of a phrase, or of what is hidden, and check it against its image.

    Args:
        source: Where the pixels come from.
        height: Of the image, in original pixels.
        width: Of the image.
        name: What to call the phrase in messages.
        may_be_empty: Whether no pixel need be set.

    Returns:
        bool (height, width), with at least one pixel set unless it may be empty.

    Raises:
        DataError: The mask cannot be read, is of another size than its image, or is empty.
        MediaError: A file of it is missing or no image.
    """
    try:
        mask = source.read()
    except MediaError as error:
        raise MediaError(f"{name}: {error}") from error
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    if mask.shape != (height, width):
        raise DataError(
            f"{name}: mask of {' x '.join(map(str, mask.shape))} pixels (height x width), its "
            f"image has {height} x {width}; give the mask in the pixels of the original image"
        )
    if not may_be_empty and not mask.any():
        raise DataError(
            f"{name}: mask is empty, none of its {height} x {width} pixels is set; correct the "
            "annotation, or leave the phrase out"
        )
    return mask


def _check_pixels(where: str, size: Any) -> None:
    """Refuse a size that no image can have before memory is asked for; other forms pass."""
    whole = isinstance(size, list | tuple) and all(isinstance(side, int) for side in size)
    if whole and math.prod(size) > MAX_PIXELS:
        raise DataError(
            f"{where}: a mask of {' x '.join(map(str, size))} = {math.prod(size)} pixels; at most "
            f"{MAX_PIXELS} are allowed, as for images"
        )


def _labels(path: Path) -> tuple[NDArray[np.int32], str]:
    """Return the values of a PNG, int32 (H, W) or (H, W, 3), read-only, and its mode."""
    return _read_labels(path, _stamp(path))


def _stamp(path: Path) -> int:
    """Return when a file was written; 0 where that cannot be told, as its reader then says why."""
    try:
        return path.stat().st_mtime_ns
    except (OSError, ValueError):
        return 0


@lru_cache(maxsize=FILES_KEPT)
def _read_labels(path: Path, stamp: int) -> tuple[NDArray[np.int32], str]:
    """Read a PNG; a file that changed has another stamp, so what is kept is never old."""
    image = load_stored(path)
    _check_labels(image, path, ("PNG",))
    labels = np.asarray(image).astype(np.int32)
    labels.setflags(write=False)
    return labels, image.mode


def _check_labels(image: Image.Image, where: str | Path, formats: tuple[str | None, ...]) -> None:
    if image.format not in formats:
        raise DataError(
            f"{where}: a mask of format {image.format}, which does not keep values exactly or is "
            "not read here; allowed: PNG"
        )
    if image.mode not in _LABEL_MODES:
        raise DataError(
            f"{where}: a {image.format or 'picture'} of mode {image.mode}; allowed: one channel "
            "(1, L, P, I;16) or RGB, without transparency"
        )


def _belonging(values: NDArray[np.int32], wanted: tuple[int, ...], where: str) -> NDArray[np.bool_]:
    """Return which labels int32 (H, W) or (H, W, 3) belong to a mask: all but 0 if none is named.

    There is no threshold: a label map has 1, 2, ... for its things, and a mask of black and white
    has 0 and whatever its writer calls white.
    """
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            raise DataError(
                f"{where} with colours is no mask; save one channel with 0 for what does not "
                "belong to it"
            )
        values = values[..., 0]
    belonging: NDArray[np.bool_] = np.isin(values, wanted) if wanted else values != 0
    return belonging
