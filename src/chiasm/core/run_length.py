"""COCO run-length masks: written, and read with the checks the reference decoder leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chiasm.core.errors import InputError


def decode_run_length(mask: Mapping[str, Any], where: str = "mask") -> NDArray[np.bool_]:
    """Decode a COCO run-length mask.

    Args:
        mask: `size` [height, width] and `counts`: a list of run lengths, or the compressed text
            (str or bytes) of the COCO API. Runs alternate, background first, column by column.
        where: What to call the mask in messages.

    Returns:
        bool (height, width).

    Raises:
        InputError: A key is missing, a value is no whole number, or the runs do not add up to
            height * width.
    """
    if "size" not in mask or "counts" not in mask:
        raise InputError(
            f"{where}: run-length mask with keys {sorted(mask)}; it needs 'size' [height, width] "
            "and 'counts'"
        )
    height, width = _size(mask["size"], where)
    runs = _runs(mask["counts"], where)
    covered = sum(runs)
    if covered != height * width or min(runs, default=0) < 0:
        raise InputError(
            f"{where}: run lengths add up to {covered} pixels (shortest {min(runs, default=0)}), "
            f"size {height} x {width} asks for {height * width}; the mask is cut off or its size "
            "is swapped, encode it again"
        )
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def encode_run_length(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Encode a mask as a COCO run-length mask, ready for JSON.

    Args:
        mask: bool (height, width), at least one pixel.

    Returns:
        `size` [height, width] and `counts`, the compressed text of the COCO API.

    Raises:
        InputError: The mask is not bool, has not two axes, or no pixel.
    """
    if mask.dtype != np.bool_ or mask.ndim != 2 or mask.size == 0:
        raise InputError(
            f"mask {mask.dtype} {mask.shape} cannot be encoded; give bool (height, width) with at "
            "least one pixel"
        )
    flat = np.asarray(mask).T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges.tolist(), flat.size]).tolist()
    # The first run is background, of no length where the first pixel is set.
    runs = [0, *runs] if flat[0] else runs
    text = "".join(
        _digits(run - runs[place - 2] if place > 2 else run) for place, run in enumerate(runs)
    )
    return {"size": [int(side) for side in mask.shape], "counts": text}


def _digits(value: int) -> str:
    """Write one number as `_uncompress` reads it."""
    text = ""
    while True:
        bits, value = value & 31, value >> 5
        # It ends where the rest says no more than the sign, which is the highest bit written.
        ends = value == (-1 if bits & 16 else 0)
        text += chr(48 + (bits if ends else bits | 32))
        if ends:
            return text


def _size(size: Any, where: str) -> tuple[int, int]:
    sides = list(size) if isinstance(size, list | tuple) else []
    if len(sides) != 2 or not all(_is_whole(side) and side > 0 for side in sides):
        raise InputError(
            f"{where}: run-length size {size!r}; allowed: [height, width], two whole numbers "
            "above 0"
        )
    return int(sides[0]), int(sides[1])


def _runs(counts: Any, where: str) -> Sequence[int]:
    if isinstance(counts, str | bytes):
        return _uncompress(counts, where)
    if not isinstance(counts, list | tuple) or not all(map(_is_whole, counts)):
        raise InputError(
            f"{where}: run-length counts of type {type(counts).__name__} are not allowed; allowed: "
            "a list of whole numbers, or the compressed text of the COCO API"
        )
    return [int(count) for count in counts]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _uncompress(text: str | bytes, where: str) -> Sequence[int]:
    """Read the COCO API's text form: base-32 digits, low first, runs from the third as differences.

    Each character is 48 plus 5 bits of value and one bit "more follows"; the highest value bit of
    the last character is the sign.
    """
    codes = text.encode() if isinstance(text, str) else text
    runs: list[int] = []
    value = shift = 0
    for code in codes:
        bits = code - 48
        if not 0 <= bits < 64:
            raise InputError(
                f"{where}: character {chr(code)!r} in the run-length text; allowed: '0' to 'o'"
            )
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise InputError(f"{where}: the run-length text ends inside a number; the mask is cut off")
    return runs
