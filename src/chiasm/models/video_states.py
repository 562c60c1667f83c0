"""States of a video as heads read them: of each original cell, or of each frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from chiasm.compression.merge import unmerge_tokens
from chiasm.core.errors import GeometryError
from chiasm.core.tokens import VisualTokens


class FrameStates(NamedTuple):
    """States of the cells of each frame.

    Attributes:
        features: float (B, T, cells, D), zero at padding.
        mask: bool (B, T), True for a real frame.
        times: float32 (B, T), when each frame begins, in seconds.
    """

    features: Tensor
    mask: Tensor
    times: Tensor


def frame_states(states: VisualTokens, times: Tensor) -> FrameStates:
    """Give each cell of each frame the state of the token that holds it.

    Args:
        states: The states, merged or not.
        times: float32 (B, T), when each frame begins, padded.

    Raises:
        GeometryError: Rows have grids of several sizes, or are no whole number of frames.
    """
    counts = {geometry.count for geometry in states.geometries}
    originals = states.sources.shape[1]
    if len(counts) != 1 or originals != times.shape[1] * max(counts):
        raise GeometryError(
            f"{originals} original tokens for {times.shape[1]} frames of {sorted(counts)} cells; "
            "give all videos one size, and one token a cell of each frame"
        )
    cells = counts.pop()
    held = (states.sources >= 0)[:, ::cells]
    return FrameStates(unmerge_tokens(states).unflatten(1, (-1, cells)), held, times)


def original_states(states: VisualTokens) -> Tensor:
    """Return the states of all real frames of all rows, float (frames, rows, columns, D).

    Raises:
        GeometryError: As `frame_states`.
    """
    geometry = states.geometries[0]
    frames = torch.zeros(
        len(states.mask), states.sources.shape[1] // geometry.count, device=states.mask.device
    )
    found = frame_states(states, frames)
    return found.features[found.mask].unflatten(1, (geometry.rows, geometry.columns))


def padded_times(times: Sequence[Tensor]) -> Tensor:
    """Return the times of frames, float32 (B, T); a row's last time stands for its padding."""
    longest = max(map(len, times))
    rows = [torch.cat([one, one[-1:].expand(longest - len(one))]) for one in times]
    return torch.stack(rows)
