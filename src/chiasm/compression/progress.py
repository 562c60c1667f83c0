"""How far a curriculum of compression is."""

from __future__ import annotations

import torch
from torch import Tensor

from chiasm.core.counting import Counter


class Progress(Counter):
    """How much of a curriculum is over; kept in checkpoints, so that a run goes on where it was.

    Args:
        batches: Training batches of the curriculum; None for none.
        cycle: Whether it begins again at its end, so that a model learns all of its settings side
            by side.
    """

    def __init__(self, batches: int | None, cycle: bool = False) -> None:
        super().__init__()
        self.batches = batches
        self.cycle = cycle
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def move(self, training: bool) -> None:
        """Count a batch of training."""
        if training and self.batches is not None:
            self.seen += 1

    def part(self, training: bool) -> float:
        """Return the part that is over, in [0, 1]; 1 outside of training."""
        if not training or self.batches is None:
            return 1.0
        done = int(self.seen) - 1
        return (done % self.batches if self.cycle else min(done, self.batches)) / self.batches
