"""Numbers of drawn pictures against their truth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chiasm.core.errors import InputError


def peak_signal_to_noise(
    drawn: NDArray[Any], truth: NDArray[Any], mask: NDArray[np.bool_] | None = None
) -> float:
    """Return the peak signal-to-noise ratio, 10 log10(1 / mean squared error).

    Args:
        drawn: (3, H, W), values in [0, 1].
        truth: Of the same shape and range.
        mask: bool (H, W), the pixels that count; all by default.

    Returns:
        Decibels; infinite where both are equal.

    Raises:
        InputError: Shapes differ, or no pixel counts.
    """
    if drawn.shape != truth.shape or drawn.ndim != 3:
        raise InputError(
            f"pictures of shapes {drawn.shape} and {truth.shape}; both must be (colours, H, W)"
        )
    if mask is not None and (mask.shape != drawn.shape[1:] or not mask.any()):
        raise InputError(
            f"a mask of {int(mask.sum())} pixels and shape {mask.shape} for pictures of shape "
            f"{drawn.shape}; give (H, W) with at least one pixel"
        )
    errors = np.square(drawn.astype(np.float64) - truth.astype(np.float64))
    mean = float(errors.mean() if mask is None else errors[:, mask].mean())
    return math.inf if mean == 0 else -10.0 * math.log10(mean)
