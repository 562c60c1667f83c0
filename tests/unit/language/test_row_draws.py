"""Draws by rows: as likely as their scores say, and a row's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from chiasm.core.errors import InputError
from chiasm.language.row_draws import DrawByRow, draw_rows, row_generators

CPU = torch.device("cpu")
SHARES = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.05, 0.0, 0.15, 0.8]])
MANY = 4001


@pytest.mark.parametrize("seed", [None, 7])
def test_entries_come_as_often_as_their_scores_say(seed: int | None) -> None:
    torch.manual_seed(3)
    scores = SHARES.log()[:, None].expand(2, MANY, 4)
    drawn = draw_rows(scores, row_generators(seed, 2, CPU))
    assert drawn.shape == (2, MANY)
    for row, shares in zip(drawn, SHARES, strict=True):
        # Four standard deviations of a share at most.
        found = torch.bincount(row, minlength=4) / MANY
        assert torch.allclose(found, shares, atol=4 * (0.25 / MANY) ** 0.5)
        assert not found[shares == 0].any()


def test_a_row_draws_among_others_what_it_draws_alone() -> None:
    scores = torch.randn(3, 5, 41, generator=torch.Generator().manual_seed(0))
    generators = row_generators(11, 3, CPU)
    assert generators is not None
    # The second call goes on where the first ended.
    together = [draw_rows(scores, generators), draw_rows(scores[:, 0], generators)]
    for row in range(3):
        own = row_generators(11, 1, CPU)
        alone = [draw_rows(scores[row : row + 1], own), draw_rows(scores[row : row + 1, 0], own)]
        for one, all_rows in zip(alone, together, strict=True):
            assert torch.equal(one[0], all_rows[row])
    assert len({tuple(row) for row in together[0].tolist()}) == 3


def test_what_was_drawn_is_the_likeliest_that_is_left() -> None:
    scores = torch.randn(3, 41, generator=torch.Generator().manual_seed(0))
    drawn = draw_rows(scores, row_generators(5, 3, CPU))
    generators = row_generators(5, 3, CPU)
    assert generators is not None
    left = DrawByRow(generators)(torch.zeros(3, 1, dtype=torch.long), scores)
    assert torch.equal(left.argmax(-1), drawn)
    assert int(torch.isfinite(left).sum()) == 3


@pytest.mark.parametrize("seed", [-1, 1.5, 2**63, "7"])
def test_a_seed_out_of_range_is_named(seed: Any) -> None:
    with pytest.raises(InputError, match=r"seed is .*; it must be a whole number from 0 to 92233"):
        row_generators(seed, 1, CPU)
