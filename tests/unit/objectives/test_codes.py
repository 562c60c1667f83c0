"""The loss of a picture's codes: a mean over the picture, a sum over pictures."""

from __future__ import annotations

import math

import pytest
import torch

from chiasm.core.outputs import Outputs
from chiasm.objectives.codes import NextCodes
from tests.tiny_pairs import pair_samples, tiny_pair_model


def test_a_picture_counts_once_whatever_its_codes() -> None:
    batch = tiny_pair_model().collator(pair_samples(2))
    objective = NextCodes()
    assert objective.count(batch) == {"codes": 2.0}
    scores = torch.zeros(2, 5, 7)
    targets = torch.tensor([[0, 1, 2, 3, 4], [6, 6, 6, 6, 6]])
    outputs = Outputs(named={"codes.logits": scores, "codes.targets": targets})
    assert float(objective.score(outputs, batch)["codes"]) == pytest.approx(2 * math.log(7))
    scores[1, :, 6] = 100.0
    assert float(objective.score(outputs, batch)["codes"]) == pytest.approx(math.log(7))


def test_without_codes_there_is_nothing_to_score() -> None:
    batch = tiny_pair_model().collator(pair_samples(2))
    assert float(NextCodes().score(Outputs(), batch)["codes"]) == 0.0
