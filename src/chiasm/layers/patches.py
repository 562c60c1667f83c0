"""How a patch embedding may start."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LUMINANCE = (1.0, 1.0, 1.0)
OPPONENTS = ((1.0, -1.0, 0.0), (1.0, 1.0, -2.0))
"""Directions of colour: brightness, red against green, yellow against blue."""


@torch.no_grad()
def start_from_cosines(weight: Tensor, scale: float = 0.3) -> None:
    """Write a cosine basis into a patch embedding.

    Filters are the two-dimensional discrete cosines of a patch (Ahmed, Natarajan and Rao, 1974), of
    brightness first and then of the two opponent colours, from low to high frequency until the
    width is filled. Amplitudes of pictures fall with frequency (Field, 1987), so a filter grows
    with its frequency: what comes out has about the same size everywhere.

    Args:
        weight: float (width, 3, frames, P, P), overwritten. Rows beyond the 3 * P * P filters
            stay as they are.
        scale: Size of the filters.
    """
    frames, side = weight.shape[2], weight.shape[-1]
    place = torch.arange(side, dtype=weight.dtype)
    waves = torch.stack([torch.cos(math.pi * (place + 0.5) * k / side) for k in range(side)])
    waves = waves / waves.norm(dim=1, keepdim=True)
    pairs = sorted(
        ((row, column) for row in range(side) for column in range(side)),
        key=lambda pair: pair[0] ** 2 + pair[1] ** 2,
    )
    filters = [(pair, LUMINANCE) for pair in pairs]
    filters += [(pair, opponent) for pair in pairs for opponent in OPPONENTS]
    for index, ((row, column), colour) in enumerate(filters[: weight.shape[0]]):
        direction = torch.tensor(colour, dtype=weight.dtype)
        direction = direction / direction.norm()
        gain = scale * (0.15 + math.hypot(row, column)) / frames
        plane = torch.outer(waves[row], waves[column]) * gain
        weight[index] = direction[:, None, None, None] * plane
