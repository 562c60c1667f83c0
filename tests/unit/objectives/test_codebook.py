"""Losses of a tokenizer: sums over pictures, and which side each moves."""

from __future__ import annotations

import pytest
import torch

from chiasm.core.batch import Batch
from chiasm.core.errors import InputError
from chiasm.core.outputs import Outputs
from chiasm.objectives.codebook import PICTURE_TERMS, PictureCodes


def batch(truth: torch.Tensor | None) -> Batch:
    blank = torch.zeros((2, 1), dtype=torch.long)
    targets = {} if truth is None else {"pictures": truth}
    return Batch(blank, blank, blank, blank, targets=targets)


def outputs(drawn: torch.Tensor, **named: torch.Tensor) -> Outputs:
    return Outputs(named={"pictures": drawn, **named})


def test_terms_are_sums_over_pictures_of_means_over_their_numbers() -> None:
    truth = torch.zeros(3, 3, 5, 7)
    drawn = torch.stack([torch.full((3, 5, 7), value) for value in (0.5, -0.25, 0.0)])
    objective = PictureCodes(("absolute", "squared", "edges"))
    found = objective.score(outputs(drawn), batch(truth))
    assert objective.count(batch(truth)) == dict.fromkeys(objective.terms, 3.0)
    assert found["pictures.absolute"].item() == pytest.approx(0.75)
    assert found["pictures.squared"].item() == pytest.approx(0.25 + 0.0625)
    assert found["pictures.edges"].item() == 0.0


def test_edges_are_what_a_shifted_outline_costs() -> None:
    truth, drawn = torch.zeros(1, 3, 5, 7), torch.zeros(1, 3, 5, 7)
    truth[..., 3:], drawn[..., 4:] = 1.0, 1.0
    found = PictureCodes(("edges",)).score(outputs(drawn), batch(truth))
    # The error is one column of 1: two differences of 1 among the 6 of each row.
    assert found["pictures.edges"].item() == pytest.approx(2 / 6)


def test_codebook_and_commitment_move_one_side_each() -> None:
    latents = torch.randn(2, 5, 7, requires_grad=True)
    chosen = torch.randn(2, 5, 7, requires_grad=True)
    named = {"codes.latents": latents, "codes.chosen": chosen, "codes.used": chosen}
    drawn = torch.zeros(2, 3, 5, 7)
    found = PictureCodes(("codebook", "commitment")).score(
        outputs(drawn, **named), batch(torch.zeros(2, 3, 5, 7))
    )
    expected = (latents - chosen).square().mean((1, 2)).sum()
    for term in ("codebook", "commitment"):
        assert found[f"pictures.{term}"].item() == pytest.approx(expected.item(), rel=1e-6)
    found["pictures.codebook"].backward(retain_graph=True)
    assert latents.grad is None and chosen.grad is not None
    chosen.grad = None
    found["pictures.commitment"].backward()
    assert latents.grad is not None and chosen.grad is None


def test_drawing_from_latents_costs_no_commitment() -> None:
    latents, chosen = torch.randn(2, 5, 7), torch.randn(2, 5, 7)
    named = {"codes.latents": latents, "codes.chosen": chosen, "codes.used": latents}
    truth = torch.zeros(2, 3, 5, 7)
    found = PictureCodes(("commitment",)).score(outputs(truth, **named), batch(truth))
    assert found["pictures.commitment"].item() == 0.0


def test_what_is_missing_or_of_another_size_is_named() -> None:
    truth = torch.zeros(2, 3, 5, 7)
    absolute = PictureCodes(("absolute",))
    assert absolute.count(batch(None)) == {"pictures.absolute": 0.0}
    with pytest.raises(InputError, match="no truth 'pictures'; it has none"):
        absolute.score(outputs(truth), batch(None))
    with pytest.raises(InputError, match=r"shape \(2, 3, 5, 5\) were drawn"):
        absolute.score(outputs(truth[..., :5]), batch(truth))
    with pytest.raises(InputError, match=r"the model gives no 'codes\.chosen'"):
        PictureCodes(("codebook",)).score(outputs(truth), batch(truth))


def test_the_terms_are_known_by_name() -> None:
    assert PICTURE_TERMS == ("absolute", "squared", "edges", "codebook", "commitment")
