"""Experts: one small network a domain, added to the states in the shares that a router gives."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from chiasm.core.config import Config
from chiasm.layers.mlp import MLP
from chiasm.layers.routing import Routing


class ExpertsConfig(Config):
    """Experts.

    Attributes:
        hidden: Width of an expert's inner layer.
    """

    hidden: int = Field(default=1024, ge=1)

    def build(self, *, width: int, count: int) -> Experts:
        """Build `count` experts on states of a width."""
        return Experts(width=width, hidden=self.hidden, count=count)


class Experts(nn.Module):
    """x + sum over experts of share * MLP(LayerNorm(x)); at the start x itself, bit for bit.

    The norm is LayerNorm: what a token gets depends on its own row alone, not on the batch.

    Args:
        width: Width D of a state.
        hidden: Width of an expert's inner layer.
        count: How many experts there are.
    """

    def __init__(self, *, width: int, hidden: int, count: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.experts = nn.ModuleList(
            MLP(width=width, hidden=hidden, output=width, zero=True) for _ in range(count)
        )

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """Map float (B, N, D) to float (B, N, D).

        Raises:
            InputError: The routing is of other rows or of another number of experts.
        """
        return routing.mix(x, self.norm(x), list(self.experts))
