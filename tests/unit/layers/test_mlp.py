"""The perceptron against its formula."""

from __future__ import annotations

import pytest
import torch

from chiasm.layers.mlp import MLP, zero_linear


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_is_linear_layers_with_gelu_between(depth: int) -> None:
    torch.manual_seed(0)
    mlp = MLP(width=5, hidden=7, output=3, depth=depth)
    x = expected = torch.randn(2, 11, 5)
    assert len(mlp.layers) == depth
    for index, layer in enumerate(mlp.layers):
        expected = expected if index == 0 else torch.nn.functional.gelu(expected)
        expected = expected @ layer.weight.T + layer.bias  # type: ignore[union-attr, operator]
    torch.testing.assert_close(mlp(x), expected)
    assert mlp(x).shape == (2, 11, 3)


def test_zero_starts_as_the_zero_function_and_still_learns() -> None:
    mlp = MLP(width=5, hidden=7, output=3, zero=True)
    out = mlp(torch.randn(11, 5))
    assert (out == 0).all()
    (out - 1).square().sum().backward()
    assert mlp.layers[-1].weight.grad.abs().max() > 0  # type: ignore[union-attr, operator]


def test_zero_linear_spares_no_parameter() -> None:
    layer = torch.nn.Linear(3, 5)
    zero_linear(layer)
    assert (layer.weight == 0).all()
    assert (layer.bias == 0).all()
