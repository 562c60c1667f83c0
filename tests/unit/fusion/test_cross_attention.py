"""Windowed cross-attention against dense attention with a mask, and what it may see."""

from __future__ import annotations

import pytest
import torch

from chiasm.core.errors import ConfigError, GeometryError
from chiasm.fusion import FUSIONS
from tests.unit.fusion.streams import GEOMETRIES, WIDTHS, build, extra, host, shaken

SETTINGS = {"width": 14, "heads": 2}


@pytest.mark.parametrize("radius", [1, 2])
@pytest.mark.parametrize("names", [("dinov2",), ("dinov2", "siglip")])
def test_equals_dense_attention_under_a_window_mask(radius: int, names: tuple[str, ...]) -> None:
    fusion = shaken(build("cross_attention", *names, **SETTINGS, radius=radius))
    found = fusion.fuse(host(), extra(*names)).tokens.rows()
    side = 2 * radius + 1
    for image, geometry in enumerate(GEOMETRIES):
        cell = torch.arange(geometry.count)
        row, column = cell // geometry.columns, cell % geometry.columns
        down, right = row[None] - row[:, None], column[None] - column[:, None]
        near = (down.abs() <= radius) & (right.abs() <= radius)
        offset = ((down + radius) * side + right + radius).clamp(0, side * side - 1)
        query = fusion.query(host().rows()[image]).unflatten(-1, (2, 7)).transpose(0, 1)
        scores, values = [], []
        for index, name in enumerate(names):
            normed = fusion.norms[name](extra(*names)[name].rows()[image])
            key = fusion.keys[name](normed).unflatten(-1, (2, 7)).transpose(0, 1)
            values.append(fusion.values[name](normed).unflatten(-1, (2, 7)).transpose(0, 1))
            bias = fusion.offsets[:, index * side * side + offset]
            dense = query @ key.transpose(1, 2) / 7**0.5 + bias
            scores.append(dense.masked_fill(~near, float("-inf")))
        weights = torch.cat(scores, dim=-1).softmax(-1)
        seen = (weights @ torch.cat(values, dim=1)).transpose(0, 1).flatten(1)
        expected = host().rows()[image] + fusion.output(seen)
        torch.testing.assert_close(found[image], expected, rtol=1e-4, atol=1e-5)


def test_a_token_outside_the_window_is_not_seen() -> None:
    fusion = shaken(build("cross_attention", "dinov2", **SETTINGS, radius=1))
    streams = extra("dinov2")
    before = fusion.fuse(host(), streams).tokens.features
    features = streams["dinov2"].features.clone()
    features[0, 0] += torch.linspace(0, 3, WIDTHS["dinov2"])
    changed = {"dinov2": streams["dinov2"].with_features(features)}
    moved = (fusion.fuse(host(), changed).tokens.features - before).abs().sum(-1) > 1e-6
    # The corner cell of a grid of 3 x 5 is in the windows of four cells.
    assert moved.nonzero().tolist() == [[0, 0], [0, 1], [0, 5], [0, 6]]


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="3 heads do not divide the width 14"):
        build("cross_attention", "dinov2", width=14, heads=3)


def test_one_token_to_look_at_is_refused() -> None:
    with pytest.raises(ConfigError, match="radius 0 with one encoder"):
        build("cross_attention", "dinov2", width=14, heads=2, radius=0)


def test_compressed_tokens_have_no_neighbours() -> None:
    from dataclasses import replace

    fusion = FUSIONS["cross_attention"](**SETTINGS).build(
        host_width=17, encoder_widths={"dinov2": 19}
    )

    def cut(tokens):  # type: ignore[no-untyped-def]
        mask = tokens.mask.clone()
        mask[0, 11:] = False
        return replace(tokens, mask=mask)

    with pytest.raises(GeometryError, match=r"\[11, 14\] tokens for \[15, 14\] cells"):
        fusion.fuse(cut(host()), {"dinov2": cut(extra("dinov2")["dinov2"])})
