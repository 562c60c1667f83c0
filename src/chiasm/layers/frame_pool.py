"""One state a frame out of those of its cells, weighed by what they show."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FramePool(nn.Module):
    """A mean over a frame's cells, weighed by a learned score, beside their maximum.

    A frame mostly shows things at rest: what happens in one cell would drown in a plain mean.

    Args:
        width: Width D of a state.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.scores = nn.Linear(width, 1)
        self.out = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map float (B, T, cells, D) to (B, T, D)."""
        shares = self.scores(x).softmax(2)
        return self.out(torch.cat([(shares * x).sum(2), x.amax(2)], -1))
