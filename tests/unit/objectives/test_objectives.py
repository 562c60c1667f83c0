"""Losses as sums with counts: values by hand, bounds, and two routes to one number."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from chiasm.core.batch import IGNORE, Batch
from chiasm.core.errors import ConfigError, InputError, UnknownNameError
from chiasm.core.outputs import Outputs
from chiasm.objectives.cells import Cells, CellsConfig
from chiasm.objectives.gate import Diversity, DiversityConfig, entropy
from chiasm.objectives.tokens import NextTokens, NextTokensConfig
from chiasm.objectives.weighted import WeightedSum
from tests.tiny_eyes import stretched


def batch(labels: list[list[int]], images: int = 0, **targets: Tensor) -> Batch:
    table = torch.tensor(labels)
    return Batch(
        input_ids=table.clamp_min(0),
        attention_mask=torch.ones_like(table),
        labels=table,
        token_types=torch.zeros_like(table),
        geometries=(stretched(61, 83, 3, 5),) * images,
        targets={name.replace("_", "."): value for name, value in targets.items()},
    )


LABELS = [[IGNORE, 3, 5, IGNORE], [2, IGNORE, IGNORE, 7]]


def scored(labels: list[list[int]], seed: int = 0) -> tuple[Outputs, Batch]:
    own = batch(labels)
    targets = own.labels[:, 1:][own.labels[:, 1:] != IGNORE]
    logits = torch.randn(len(targets), 11, generator=torch.Generator().manual_seed(seed))
    return Outputs(logits=logits, targets=targets), own


def test_next_tokens_is_the_sum_of_minus_log_probabilities() -> None:
    outputs, own = scored(LABELS)
    assert outputs.logits is not None
    found = NextTokens().score(outputs, own)["tokens"]
    rows = outputs.logits.log_softmax(-1)
    expected = -(rows[0, 3] + rows[1, 5] + rows[2, 7])
    torch.testing.assert_close(found, expected)
    # The first label of a row has no position before it: three count, not four.
    assert NextTokens().count(own) == {"tokens": 3.0}


def test_label_smoothing_mixes_in_the_mean() -> None:
    outputs, own = scored(LABELS)
    assert outputs.logits is not None
    rows = outputs.logits.log_softmax(-1)
    plain = NextTokens().score(outputs, own)["tokens"]
    found = NextTokensConfig(label_smoothing=0.25).build().score(outputs, own)["tokens"]
    torch.testing.assert_close(found, 0.75 * plain - 0.25 * rows.mean(-1).sum())


def test_half_precision_logits_are_summed_in_float32() -> None:
    outputs, own = scored(LABELS)
    assert outputs.logits is not None
    half = Outputs(logits=outputs.logits.bfloat16(), targets=outputs.targets)
    assert NextTokens().score(half, own)["tokens"].dtype == torch.float32


def test_a_batch_that_supervises_nothing_scores_zero() -> None:
    own = batch([[IGNORE, IGNORE]])
    assert NextTokens().score(Outputs(), own)["tokens"] == 0
    assert NextTokens().count(own) == {"tokens": 0.0}


def cells(seed: int = 0) -> tuple[Outputs, Batch]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, (2, 3, 4), generator=generator)
    labels[0, 0, 0] = labels[1, 2] = IGNORE
    scores = torch.randn(2, 3, 4, 5, generator=generator)
    return Outputs(named={"cells.shape": scores}), batch(LABELS, cells_shape=labels)


def test_cells_sums_over_labelled_cells() -> None:
    outputs, own = cells()
    objective = CellsConfig(attributes=("shape",)).build()
    labels, rows = own.targets["cells.shape"], outputs.named["cells.shape"].log_softmax(-1)
    expected = -sum(
        rows[i, r, c, labels[i, r, c]]
        for i in range(2)
        for r in range(3)
        for c in range(4)
        if labels[i, r, c] != IGNORE
    )
    torch.testing.assert_close(objective.score(outputs, own)["cells.shape"], expected)
    assert objective.count(own) == {"cells.shape": 19.0}
    assert objective.terms == ("cells.shape",)


def test_cells_names_what_is_missing() -> None:
    _, own = cells()
    with pytest.raises(InputError, match=r"no labels 'cells.colour'; it has \['cells.shape'\]"):
        Cells(["colour"]).count(own)
    with pytest.raises(InputError, match=r"predicts no 'cells.shape'; it predicts \[\]"):
        Cells(["shape"]).score(Outputs(), own)
    wrong = Outputs(named={"cells.shape": torch.zeros(2, 4, 4, 5)})
    with pytest.raises(InputError, match=r"cells \(2, 4, 4\), labels for \(2, 3, 4\)"):
        Cells(["shape"]).score(wrong, own)


def gate(*rows: list[float]) -> tuple[Outputs, Batch]:
    shares = torch.tensor(rows, requires_grad=True)
    return Outputs(named={"gate": shares}), batch(LABELS, images=len(rows))


def mean(reading: Any, *rows: list[float]) -> float:
    outputs, own = gate(*rows)
    objective = DiversityConfig(reading=reading).build()
    return float(objective.score(outputs, own)["diversity"].detach()) / len(rows)


def test_entropy_reading_is_minus_the_binary_entropy_of_alpha() -> None:
    alphas = [0.5, 0.9, 0.2]
    found = mean("entropy", *[[alpha, 1 - alpha] for alpha in alphas])
    expected = sum(a * math.log(a) + (1 - a) * math.log(1 - a) for a in alphas) / 3
    assert found == pytest.approx(expected)


def test_batch_reading_wants_decided_and_balanced_shares() -> None:
    decided = mean("batch", [1.0, 0.0], [0.0, 1.0])
    undecided = mean("batch", [0.5, 0.5], [0.5, 0.5])
    collapsed = mean("batch", [1.0, 0.0], [1.0, 0.0])
    assert decided == pytest.approx(-math.log(2))
    assert undecided == pytest.approx(0, abs=1e-6)
    assert collapsed == pytest.approx(0, abs=1e-6)
    assert mean("batch", [0.3, 0.7]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("reading", ["entropy", "batch"])
@pytest.mark.parametrize("streams", [2, 3, 5])
def test_both_readings_are_bounded(reading: str, streams: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for scale in (0.1, 1.0, 30.0):
        logits = torch.randn(7, streams, generator=generator) * scale
        found = mean(reading, *logits.softmax(-1).tolist())
        assert -math.log(streams) - 1e-6 <= found <= 1e-6


def test_the_entropy_reading_pulls_towards_equal_shares() -> None:
    logit = torch.tensor([[2.0, 0.0]], requires_grad=True)
    outputs = Outputs(named={"gate": logit.softmax(-1)})
    Diversity("entropy").score(outputs, batch(LABELS, images=1))["diversity"].backward()
    assert logit.grad is not None
    assert logit.grad[0, 0] > 0 > logit.grad[0, 1]


def test_shares_of_zero_and_one_have_finite_gradients() -> None:
    shares = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    entropy(shares).sum().backward()
    assert shares.grad is not None
    assert shares.grad.isfinite().all()
    assert (entropy(shares) == 0).all()


def test_diversity_counts_images_and_needs_a_gate() -> None:
    _, own = gate([0.5, 0.5], [0.1, 0.9])
    assert Diversity().count(own) == {"diversity": 2.0}
    with pytest.raises(InputError, match="use the fusion 'gated'"):
        Diversity().score(Outputs(), own)
    assert Diversity().score(Outputs(), batch(LABELS))["diversity"] == 0


def both() -> tuple[Outputs, Batch]:
    outputs, own = cells()
    tokens, _ = scored(LABELS)
    return Outputs(tokens.logits, tokens.targets, outputs.named), own


def test_weighted_sum_merges_terms() -> None:
    outputs, own = both()
    parts = [NextTokens(), Cells(["shape"])]
    found = WeightedSum(parts, {"cells.shape": 0.25})
    assert found.terms == ("tokens", "cells.shape")
    assert found.count(own) == {"tokens": 3.0, "cells.shape": 19.0}
    scores = found.score(outputs, own)
    torch.testing.assert_close(scores["tokens"], parts[0].score(outputs, own)["tokens"])
    expected = parts[1].score(outputs, own)["cells.shape"] * 0.25
    torch.testing.assert_close(scores["cells.shape"], expected)


def test_weights_change_by_stage_without_touching_the_first() -> None:
    first = WeightedSum([NextTokens(), Diversity()], {"diversity": 0.1})
    second = first.with_weights({"diversity": 0.5})
    assert first.weights == {"tokens": 1.0, "diversity": 0.1}
    assert second.weights == {"tokens": 1.0, "diversity": 0.5}


def test_an_objective_without_weight_is_not_run() -> None:
    outputs, own = scored(LABELS)
    silent = WeightedSum([NextTokens(), Cells(["shape"])], {"cells.shape": 0.0})
    assert set(silent.score(outputs, own)) == set(silent.count(own)) == {"tokens"}


def test_wrong_weights_are_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"loss term 'token'; known: diversity, tokens"):
        WeightedSum([NextTokens(), Diversity()], {"token": 1.0})
    with pytest.raises(ConfigError, match="'tokens' has the weight -1"):
        WeightedSum([NextTokens()], {"tokens": -1.0})
    with pytest.raises(ConfigError, match="two objectives score the same term: tokens"):
        WeightedSum([NextTokens(), NextTokens()])
