"""Losses of masks: by hand, in sums and counts, at the truth's nearest pixel."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from chiasm.core.batch import IGNORE, Batch, PhraseBatch
from chiasm.core.errors import ConfigError, InputError, UnknownNameError
from chiasm.core.outputs import Outputs
from chiasm.objectives.masks import (
    MaskQuality,
    MaskQualityConfig,
    Masks,
    MasksConfig,
    balanced_cross_entropy,
    cross_entropy,
    dice,
    fit_truth,
    overlap,
)
from chiasm.objectives.weighted import WeightedSum


def batch(*masks: Tensor, phrases: int | None = None) -> Batch:
    count = len(masks) if phrases is None else phrases
    ids = torch.zeros((1, 1), dtype=torch.long)
    return Batch(
        input_ids=ids,
        attention_mask=ids + 1,
        labels=torch.full_like(ids, IGNORE),
        token_types=ids,
        phrases=PhraseBatch(
            rows=torch.zeros(count, dtype=torch.long),
            images=torch.zeros(count, dtype=torch.long),
            tokens=torch.zeros((count, 2), dtype=torch.long),
            masks=masks,
        ),
    )


def random_masks(*sizes: tuple[int, int]) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.rand(size) < 0.4 for size in sizes]


def test_dice_by_hand() -> None:
    """Four pixels of probability 3/4, 1/4, 3/4, 1/2; truth is the first two."""
    logits = torch.tensor([[[math.log(3), -math.log(3)], [math.log(3), 0.0]]])
    truth = torch.tensor([[[True, True], [False, False]]])
    # 2 (3/4 + 1/4) + 1 = 3 over 9/4 + 2 + 1 = 21/4.
    assert dice(logits, truth).tolist() == pytest.approx([1 - 3 / 5.25])


def test_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[[math.log(3), -math.log(3)], [math.log(3), 0.0]]])
    truth = torch.tensor([[[True, True], [False, False]]])
    wanted = -(math.log(0.75) + math.log(0.25) + math.log(0.25) + math.log(0.5)) / 4
    assert cross_entropy(logits, truth).tolist() == pytest.approx([wanted])


def test_balanced_cross_entropy_by_hand() -> None:
    """One pixel inside, three outside: each side weighs one half, whatever its size."""
    logits = torch.tensor([[[math.log(3), -math.log(3)], [math.log(3), 0.0]]])
    truth = torch.tensor([[[True, False], [False, False]]])
    inside, outside = -math.log(0.75), -(math.log(0.75) + math.log(0.25) + math.log(0.5)) / 3
    wanted = (inside + outside) / 2
    assert balanced_cross_entropy(logits, truth).tolist() == pytest.approx([wanted])
    uneven = balanced_cross_entropy(logits, truth, share=0.75)
    assert uneven.tolist() == pytest.approx([0.75 * inside + 0.25 * outside])
    nothing = balanced_cross_entropy(logits, torch.zeros_like(truth))
    all_outside = -(2 * math.log(0.25) + math.log(0.75) + math.log(0.5)) / 4
    assert nothing.tolist() == pytest.approx([all_outside / 2])


def test_a_score_that_sees_nothing_is_zero_only_where_both_sides_weigh_the_same() -> None:
    """The best constant is 0 for the balanced form, and the share of the mask for the plain one."""
    truth = torch.zeros(1, 5, 7, dtype=torch.bool)
    truth[0, 0, :3] = True
    for loss, best in ((balanced_cross_entropy, 0.0), (cross_entropy, math.log(3 / 32))):
        constant = torch.tensor(best, requires_grad=True)
        loss(constant.expand(1, 5, 7), truth).sum().backward()
        assert constant.grad is not None and constant.grad.item() == pytest.approx(0, abs=1e-6)


def test_the_balanced_term_is_computed_where_it_is_asked_for() -> None:
    masks = random_masks((5, 7), (11, 3))
    logits = [torch.randn(5, 7), torch.randn(11, 3)]
    outputs = Outputs(masks={"coarse": tuple(logits), "refined": tuple(logits)})
    objective = MasksConfig(balanced=("coarse",)).build()
    added = set(objective.terms) - set(Masks().terms)
    assert added == {"coarse.balanced"}
    found = objective.score(outputs, batch(*masks))
    pairs = zip(logits, masks, strict=True)
    wanted = torch.cat([balanced_cross_entropy(one[None], mask[None]) for one, mask in pairs])
    torch.testing.assert_close(found["coarse.balanced"], wanted.sum())
    uneven = MasksConfig(balanced=("coarse",), inside=0.75).build().score(outputs, batch(*masks))
    assert not torch.isclose(uneven["coarse.balanced"], found["coarse.balanced"])
    usual = Masks().score(outputs, batch(*masks))
    assert all(torch.equal(found[term], value) for term, value in usual.items())


def test_a_perfect_mask_of_nothing_loses_nothing() -> None:
    empty = torch.zeros(1, 3, 5, dtype=torch.bool)
    assert dice(torch.full((1, 3, 5), -50.0), empty).item() == pytest.approx(0, abs=1e-6)
    assert cross_entropy(torch.full((1, 3, 5), -50.0), empty).item() == pytest.approx(0, abs=1e-6)


def test_truth_is_read_where_the_middle_of_a_place_lies() -> None:
    truth = torch.zeros(1, 4, 6, dtype=torch.bool)
    truth[0, 3, 1] = truth[0, 1, 4] = True
    # Places of 2 x 3 have their middles at rows 1 and 3, columns 1, 3, 5 of pixel edges.
    assert fit_truth(truth, torch.zeros(1, 2, 3)).tolist() == [
        [[False, False, False], [True, False, False]]
    ]
    same = fit_truth(truth, torch.zeros(1, 4, 6))
    assert same is truth


def test_a_mask_between_the_middles_of_places_is_where_most_of_it_lies() -> None:
    truth = torch.zeros(4, 10, 15, dtype=torch.bool)
    truth[0, 0:2, 3:6] = (
        True  # Of 2 x 3 places of 5 x 5 pixels, four pixels of one and two of the next.
    )
    truth[1, 7, 2] = True  # The middle of a place, as ever.
    truth[2, 9, 4:6] = True  # As much of two places.
    found = fit_truth(truth, torch.zeros(4, 2, 3))
    places = [mask.nonzero().tolist() for mask in found]
    assert places == [[[0, 0]], [[1, 0]], [[1, 0], [1, 1]], []]
    # So a thing between them pulls its place up, and is no lesson that there is nothing.
    logits = torch.zeros(1, 2, 3, requires_grad=True)
    balanced_cross_entropy(logits, truth[:1]).sum().backward()
    assert logits.grad is not None and (logits.grad < 0).nonzero().tolist() == [[0, 0, 0]]


def test_terms_are_sums_over_phrases_whatever_their_sizes() -> None:
    masks = random_masks((5, 7), (11, 3), (5, 7))
    coarse = [torch.randn(5, 7), torch.randn(13, 17), torch.randn(5, 7)]
    refined = [torch.randn(11, 7), torch.randn(11, 3), torch.randn(5, 7)]
    objective = MasksConfig().build()
    assert objective.terms == ("coarse.bce", "coarse.dice", "refined.bce", "refined.dice")
    outputs = Outputs(masks={"coarse": tuple(coarse), "refined": tuple(refined)})
    found = objective.score(outputs, batch(*masks))
    for head, logits in (("coarse", coarse), ("refined", refined)):
        for term, loss in (("bce", cross_entropy), ("dice", dice)):
            alone = [
                loss(one[None], mask[None])[0] for one, mask in zip(logits, masks, strict=True)
            ]
            torch.testing.assert_close(found[f"{head}.{term}"], torch.stack(alone).sum())
    assert objective.count(batch(*masks)) == dict.fromkeys(objective.terms, 3.0)


def test_a_batch_is_the_sum_of_its_parts() -> None:
    """What gradient accumulation and several processes rest on."""
    masks = random_masks((5, 7), (11, 3), (5, 7))
    logits = [torch.randn(4, 4) for _ in masks]
    objective = Masks(("coarse",))
    whole = objective.score(Outputs(masks={"coarse": tuple(logits)}), batch(*masks))
    pieces = [
        objective.score(Outputs(masks={"coarse": (one,)}), batch(mask))
        for one, mask in zip(logits, masks, strict=True)
    ]
    for term, total in whole.items():
        torch.testing.assert_close(total, torch.stack([piece[term] for piece in pieces]).sum())


def test_phrases_without_a_mask_are_not_counted() -> None:
    known = random_masks((5, 7))[0]
    unknown = torch.zeros((0, 0), dtype=torch.bool)
    objective = Masks(("coarse",))
    logits = torch.randn(5, 7)
    outputs = Outputs(masks={"coarse": (torch.randn(5, 7), logits)})
    mixed = batch(unknown, known)
    assert objective.count(mixed)["coarse.bce"] == 1
    torch.testing.assert_close(
        objective.score(outputs, mixed)["coarse.bce"], cross_entropy(logits[None], known[None])[0]
    )
    none = batch(phrases=2)
    assert objective.count(none)["coarse.bce"] == 0
    assert objective.score(outputs, none) == {"coarse.bce": 0, "coarse.dice": 0}


def test_weights_go_by_term() -> None:
    masks = random_masks((5, 7))
    outputs = Outputs(masks={"coarse": (torch.randn(5, 7),)})
    plain = Masks(("coarse",)).score(outputs, batch(*masks))
    weighted = WeightedSum([Masks(("coarse",))], {"coarse.bce": 0.5, "coarse.dice": 3.0})
    found = weighted.score(outputs, batch(*masks))
    assert found["coarse.bce"] == plain["coarse.bce"] * 0.5
    assert found["coarse.dice"] == plain["coarse.dice"] * 3
    with pytest.raises(UnknownNameError, match=r"'fine\.bce'; known: coarse\.bce, coarse\.dice"):
        WeightedSum([Masks(("coarse",))], {"fine.bce": 1.0})


def test_gradients_reach_every_head() -> None:
    coarse, refined = (torch.randn(5, 7, requires_grad=True) for _ in range(2))
    outputs = Outputs(masks={"coarse": (coarse,), "refined": (refined,)})
    torch.stack(
        list(Masks().score(outputs, batch(*random_masks((5, 7)))).values())
    ).sum().backward()
    assert coarse.grad is not None
    assert refined.grad is not None


def test_losses_are_float32_for_half_precision_logits() -> None:
    logits = torch.randn(1, 64, 64).bfloat16()
    truth = torch.rand(1, 64, 64) < 0.5
    torch.testing.assert_close(dice(logits, truth), dice(logits.float(), truth))
    assert cross_entropy(logits, truth).dtype == torch.float32


def test_quality_is_the_squared_error_of_the_guess() -> None:
    truth = torch.tensor([[True, True, False, False]])
    logits = torch.tensor([[1.0, -1.0, 2.0, -3.0]], requires_grad=True)
    scores = torch.tensor([0.5], requires_grad=True)
    outputs = Outputs(masks={"refined": (logits,)}, named={"refined.scores": scores})
    objective = MaskQualityConfig().build()
    found = objective.score(outputs, batch(truth))["refined.quality"]
    # One pixel shared of three.
    assert found.item() == pytest.approx((0.5 - 1 / 3) ** 2)
    found.backward()
    assert scores.grad is not None
    assert logits.grad is None
    assert objective.count(batch(truth)) == {"refined.quality": 1.0}
    assert objective.score(outputs, batch(phrases=1)) == {"refined.quality": 0}
    empty = torch.zeros(3, 5)
    assert overlap(empty - 1, empty.bool()) == 1


def test_faults_name_what_was_given() -> None:
    masks = random_masks((5, 7), (5, 7))
    one = torch.randn(5, 7)
    objective = Masks(("refined",))
    with pytest.raises(InputError, match=r"no masks 'refined'; it predicts \['coarse'\]"):
        objective.score(Outputs(masks={"coarse": (one, one)}), batch(*masks))
    with pytest.raises(InputError, match="'refined' predicts 1 masks for 2 phrases"):
        objective.score(Outputs(masks={"refined": (one,)}), batch(*masks))
    with pytest.raises(InputError, match="2 phrases and 1 masks"):
        objective.count(batch(masks[0], phrases=2))
    with pytest.raises(InputError, match=r"no 'refined\.scores'"):
        MaskQuality().score(Outputs(masks={"refined": (one, one)}), batch(*masks))
    with pytest.raises(ConfigError, match="two objectives score the same term"):
        WeightedSum([Masks(("coarse",)), Masks(("coarse", "refined"))])
