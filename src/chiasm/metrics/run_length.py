"""Reading COCO run-length masks, with the check that the reference decoder leaves out."""

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
        InputError: A key is missing, or the runs do not add up to height * width.
    """
    if "size" not in mask or "counts" not in mask:
        raise InputError(
            f"{where}: run-length mask with keys {sorted(mask)}; it needs 'size' [height, width] "
            "and 'counts'"
        )
    height, width = (int(side) for side in mask["size"])
    counts = mask["counts"]
    runs = _uncompress(counts, where) if isinstance(counts, str | bytes) else list(counts)
    covered = sum(runs)
    if covered != height * width or min(runs, default=0) < 0:
        raise InputError(
            f"{where}: run lengths add up to {covered} pixels (shortest {min(runs, default=0)}), "
            f"size {height} x {width} asks for {height * width}; the mask is cut off or its size "
            "is swapped, encode it again"
        )
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


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
