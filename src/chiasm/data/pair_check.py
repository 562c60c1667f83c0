"""What is wrong with the mask, the boxes and the target of a pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from chiasm.core.errors import DataError
from chiasm.core.samples import Pair
from chiasm.data.conversation import Fault, shown
from chiasm.data.formats.pairs import (
    BOX,
    MASK,
    ORIGINAL,
    RECONSTRUCTION,
    RECONSTRUCTION_BOX,
    TARGET,
    TRUE_MASKS,
    TRUTH,
)
from chiasm.data.masks import read_mask

Sizes = Mapping[str, tuple[int, int]]
"""Field of a picture to its (width, height), for those that could be decoded."""


def pair_faults(pair: Pair, truth: Mapping[str, Any], sizes: Sizes, origin: str) -> list[Fault]:
    """Hold what is known of a pair against its pictures.

    Args:
        pair: The pair.
        truth: What else is known, of which the masks are looked at.
        sizes: By the field names of the format `pairs`.
        origin: File and line, for the faults.
    """
    faults = []
    for field, box, picture in (
        (BOX, pair.image_box, ORIGINAL),
        (RECONSTRUCTION_BOX, pair.reconstruction_box, RECONSTRUCTION),
    ):
        if box is not None and picture in sizes:
            left, top, right, bottom = box
            width, height = sizes[picture]
            if left < 0 or top < 0 or right > width or bottom > height:
                allowed = f"{picture} is {width} x {height} (width x height)"
                faults.append(Fault(origin, field, f"{shown(list(box))} lies outside", allowed))
    if ORIGINAL not in sizes:
        return faults
    width, height = sizes[ORIGINAL]
    if TARGET in sizes and sizes[TARGET] != (width, height):
        value = f"is {sizes[TARGET][0]} x {sizes[TARGET][1]} (width x height)"
        allowed = f"{ORIGINAL} is {width} x {height}; give it as it is without the occluder"
        faults.append(Fault(origin, TARGET, value, allowed))
    for name in TRUE_MASKS:
        # What is no array has been told of by the reader.
        if isinstance(mask := truth.get(name), np.ndarray) and mask.shape != (height, width):
            value = f"a mask of {' x '.join(map(str, mask.shape))} pixels (height x width)"
            allowed = f"{ORIGINAL} has {height} x {width}"
            faults.append(Fault(origin, f"{TRUTH}.{name}", value, allowed))
    if pair.hidden is not None:
        try:
            read_mask(pair.hidden, height, width, MASK, may_be_empty=True)
        except DataError as error:
            value, _, allowed = str(error).removeprefix(f"{MASK}: ").rpartition("; ")
            faults.append(Fault(origin, MASK, value, allowed))
    return faults
