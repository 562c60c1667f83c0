"""Accumulating k batches of b is one batch of k * b, also where they hold unequal many tokens."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from chiasm.training.loop import Trainer
from chiasm.training.records import read_metrics
from chiasm.training.sampler import Order, Slices
from chiasm.training.settings import StageSettings, TrainingSettings
from tests.unit.training.small import SmallData, SmallModel, SmallObjective, collate

STAGES = (
    StageSettings(name="all", steps=7, train=("*",), learning_rate=1e-2, loss_weights={"gate": 3}),
)

# Measured: 2.4e-7 at most; the same numbers are added in another order.
TOLERANCE = 3e-6


def train(output: Path, batch_size: int, accumulation: int) -> tuple[SmallModel, list[float]]:
    output.mkdir()
    model = SmallModel(dropout=0.0)
    Trainer(
        model=model,
        objective=SmallObjective(),
        dataset=SmallData(29),
        collate=collate,
        settings=TrainingSettings(
            stages=STAGES,
            batch_size=batch_size,
            accumulation=accumulation,
            log_every=1,
            # With the usual 1e-8 a first step of AdamW is the sign of the gradient, which rounding
            # turns where the gradient is nearly zero.
            epsilon=1e-3,
        ),
        output=output,
        console=Console(file=io.StringIO()),
    ).train()
    return model, [row["loss"] for row in read_metrics(output / "metrics.jsonl")]


def test_micro_batches_hold_unequal_many_tokens() -> None:
    """Otherwise a mean of means would pass the comparison below."""
    slices = Slices(Order(29, 0, True), batch_size=2, accumulation=3, processes=1, rank=0)
    data = SmallData(29)
    counts = [
        collate([data[index] for index in slices.indices(0, turn)]).supervised_tokens
        for turn in range(3)
    ]
    assert len(set(counts)) > 1


@pytest.mark.parametrize(("batch_size", "accumulation"), [(2, 3), (3, 2), (1, 6)])
def test_accumulation_is_a_large_batch(tmp_path: Path, batch_size: int, accumulation: int) -> None:
    large, expected = train(tmp_path / "large", 6, 1)
    small, losses = train(tmp_path / "small", batch_size, accumulation)
    assert losses == pytest.approx(expected, abs=TOLERANCE)
    found: dict[str, Tensor] = dict(small.named_parameters())
    for name, parameter in large.named_parameters():
        assert float((found[name] - parameter).detach().abs().max()) <= TOLERANCE, name


def test_means_of_means_would_differ(tmp_path: Path) -> None:
    """The first step's loss is the mean over the window's tokens, not the mean of batch means."""
    _, losses = train(tmp_path / "run", 2, 3)
    slices = Slices(Order(29, 0, True), batch_size=2, accumulation=3, processes=1, rank=0)
    model, objective, data = SmallModel(dropout=0.0), SmallObjective(), SmallData(29)
    sums = {"tokens": 0.0, "gate": 0.0}
    counts = {"tokens": 0.0, "gate": 0.0}
    means = 0.0
    with torch.no_grad():
        for turn in range(3):
            batch = collate([data[index] for index in slices.indices(0, turn)])
            scores, own = objective.score(model(batch), batch), objective.count(batch)
            means += float(scores["tokens"]) / own["tokens"] / 3
            for term in sums:
                sums[term] += float(scores[term])
                counts[term] += own[term]
    mean = sums["tokens"] / counts["tokens"]
    assert losses[0] == pytest.approx(mean + 3 * sums["gate"] / counts["gate"], abs=TOLERANCE)
    assert abs(mean - means) > 1e-3
