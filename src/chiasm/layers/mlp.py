"""The multilayer perceptron between two widths."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with GELU between them, applied to the last axis.

    Args:
        width: Width of the input.
        hidden: Width of each inner layer.
        output: Width of the output.
        depth: Number of linear layers, at least 1; with 1 there is no inner layer.
        zero: Whether the last layer starts at zero, so that the whole starts as the zero function.
    """

    def __init__(
        self, *, width: int, hidden: int, output: int, depth: int = 2, zero: bool = False
    ) -> None:
        super().__init__()
        widths = [width, *[hidden] * (depth - 1), output]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))
        self.activation = nn.GELU()
        if zero:
            zero_linear(self.layers[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Map float (..., width) to float (..., output)."""
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


def zero_linear(layer: nn.Module) -> None:
    """Set weight and bias of a linear layer to zero: the no-op start of a residual branch."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
