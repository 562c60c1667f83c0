"""Patch info mining against the formula written out cell by cell."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import layer_norm, linear

from chiasm.core.errors import ConfigError
from chiasm.core.tokens import VisualTokens
from chiasm.fusion import FUSIONS
from tests.unit.fusion.streams import GEOMETRIES, HOST_WIDTH, host, shaken, tokens

WIDTHS = {"fine": 5, "finer": 7}
SIDE = 3


def mining(*names: str) -> Any:
    torch.manual_seed(0)
    return FUSIONS["mining"](side=SIDE).build(
        host_width=HOST_WIDTH, encoder_widths={name: WIDTHS[name] * SIDE**2 for name in names}
    )


def extra(*names: str) -> dict[str, VisualTokens]:
    return {name: tokens(WIDTHS[name] * SIDE**2, len(name)) for name in names}


@pytest.mark.parametrize("names", [("fine",), ("fine", "finer")])
def test_equals_the_formula_cell_by_cell(names: tuple[str, ...]) -> None:
    fusion = shaken(mining(*names))
    weights = fusion.state_dict()

    def mapped(x: torch.Tensor, place: str) -> torch.Tensor:
        bias = [weights.get(f"{place}.{layer}.bias") for layer in (0, 1)]
        x = layer_norm(x, x.shape[-1:], weights[f"{place}.0.weight"], bias[0])
        return linear(x, weights[f"{place}.1.weight"], bias[1])

    found = fusion.fuse(host(), extra(*names)).tokens.rows()
    for image, geometry in enumerate(GEOMETRIES):
        for cell in range(geometry.count):
            own = host().rows()[image][cell]
            keys, values = [], []
            for name in names:
                token = extra(*names)[name].rows()[image][cell]
                for place in range(SIDE**2):
                    fine = token[place * WIDTHS[name] : (place + 1) * WIDTHS[name]]
                    keys.append(mapped(fine, f"keys.{name}"))
                    values.append(mapped(fine, f"values.{name}"))
            scores = torch.stack(keys) @ mapped(own, "query") / HOST_WIDTH**0.5
            expected = own + scores.softmax(0) @ torch.stack(values)
            # Measured: 2e-6.
            torch.testing.assert_close(found[image][cell], expected, rtol=1e-4, atol=1e-5)


def test_a_cell_sees_its_own_features_only() -> None:
    fusion = shaken(mining("fine"))
    streams = extra("fine")
    before = fusion.fuse(host(), streams).tokens.features
    features = streams["fine"].features.clone()
    features[1, 4, :5] += torch.linspace(0, 3, 5)
    changed = {"fine": streams["fine"].with_features(features)}
    moved = (fusion.fuse(host(), changed).tokens.features - before).abs().sum(-1) > 1e-6
    assert moved.nonzero().tolist() == [[1, 4]]


def test_the_start_is_no_dead_end() -> None:
    fusion = mining("fine")
    optimizer = torch.optim.SGD(fusion.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        fused = fusion.fuse(host(), extra("fine")).tokens.features
        (fused - host(seed=7).features).square().mean().backward()
        optimizer.step()
    assert all(parameter.grad.abs().max() > 1e-8 for parameter in fusion.parameters())


def test_widths_that_are_no_square_of_features() -> None:
    with pytest.raises(ConfigError, match="'fine': a token of 44 is no 3 x 3 features"):
        FUSIONS["mining"](side=3).build(host_width=17, encoder_widths={"fine": 44})
    with pytest.raises(ConfigError, match="leaves one feature to look at"):
        FUSIONS["mining"](side=1).build(host_width=17, encoder_widths={"fine": 44})
