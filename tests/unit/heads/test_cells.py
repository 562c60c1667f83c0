"""The dense head: grids of unequal size, and tokens it cannot read."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from chiasm.core.errors import GeometryError
from chiasm.core.tokens import VisualTokens
from chiasm.heads.cells import CellHeadConfig
from tests.tiny_eyes import stretched

GEOMETRIES = (stretched(61, 83, 3, 5), stretched(97, 43, 7, 2))


def tokens() -> VisualTokens:
    torch.manual_seed(0)
    return VisualTokens.from_images([torch.randn(g.count, 11) for g in GEOMETRIES], GEOMETRIES)


def test_each_cell_has_the_scores_of_its_token() -> None:
    head = CellHeadConfig(attributes={"shape": 4, "colour": 13}).build(width=11)
    scores = head.predict(tokens())
    assert {name: tuple(s.shape) for name, s in scores.items()} == {
        "cells.shape": (2, 7, 5, 4),
        "cells.colour": (2, 7, 5, 13),
    }
    classify = head.classifiers["colour"]
    for image, geometry in enumerate(GEOMETRIES):
        expected = classify(head.norm(tokens().rows()[image]))
        found = scores["cells.colour"][image, : geometry.rows, : geometry.columns]
        torch.testing.assert_close(found.reshape(-1, 13), expected)
        assert (scores["cells.colour"][image, geometry.rows :] == 0).all()
        assert (scores["cells.colour"][image, :, geometry.columns :] == 0).all()


def test_compressed_tokens_are_refused() -> None:
    head = CellHeadConfig(attributes={"shape": 4}).build(width=11)
    mask = tokens().mask.clone()
    mask[0, 13:] = False
    with pytest.raises(GeometryError, match=r"\[13, 14\] tokens for \[15, 14\] cells"):
        head.predict(replace(tokens(), mask=mask))
