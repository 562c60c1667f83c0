"""The loss of answers out of a closed set."""

import pytest
import torch

from chiasm.core.batch import IGNORE, Batch, VideoBatch
from chiasm.core.errors import InputError
from chiasm.core.outputs import Outputs
from chiasm.objectives.answers import Answers


def batch(*answers: int) -> Batch:
    """As many questions about one video without frames."""
    count = len(answers)
    ids = torch.ones(count, 2, dtype=torch.long)
    empty = torch.zeros(0, dtype=torch.long)
    videos = VideoBatch(
        frames=(),
        features=(torch.zeros(2, 3),),
        times=(torch.arange(2.0),),
        durations=torch.tensor([2.0]),
        segments=torch.zeros(0, 2),
        segment_rows=empty,
        segment_labels=empty,
        segments_known=torch.tensor([False]),
        asked=torch.zeros(count, dtype=torch.long),
        answers=torch.tensor(answers),
        domains=torch.tensor([IGNORE]),
    )
    return Batch(ids, ids, ids, ids, videos=videos)


def test_it_sums_over_answered_questions_alone() -> None:
    scores = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    told = batch(4, IGNORE, 1)
    expected = -scores.log_softmax(1)[[0, 2], [4, 1]].sum()
    assert Answers().count(told) == {"answers": 2.0}
    found = Answers().score(Outputs(named={"answers": scores}), told)["answers"]
    torch.testing.assert_close(found, expected)


def test_scores_that_are_missing_or_of_other_questions_are_refused() -> None:
    with pytest.raises(InputError, match="for 2 questions are needed; found"):
        Answers().score(Outputs(), batch(0, 1))
    with pytest.raises(InputError, match=r"found \(3, 5\)"):
        Answers().score(Outputs(named={"answers": torch.zeros(3, 5)}), batch(0, 1))
    empty = torch.zeros(1, 0, dtype=torch.long)
    with pytest.raises(InputError, match="VideoCollator"):
        Answers().count(Batch(empty, empty, empty, empty))


def test_smoothing_spreads_a_share_over_the_set() -> None:
    scores = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    logs = scores.log_softmax(1)
    expected = -(0.7 * logs[[0, 1], [3, 0]] + 0.3 * logs.mean(1)).sum()
    found = Answers(label_smoothing=0.3).score(Outputs(named={"answers": scores}), batch(3, 0))
    torch.testing.assert_close(found["answers"], expected)


def test_half_precision_is_summed_in_single() -> None:
    scores = 9 * torch.randn(997, 5, generator=torch.Generator().manual_seed(2))
    told, half = batch(*[0] * 997), scores.half()
    found = Answers().score(Outputs(named={"answers": half}), told)["answers"]
    assert found.dtype == torch.float32
    expected = Answers().score(Outputs(named={"answers": half.float()}), told)["answers"]
    torch.testing.assert_close(found, expected)
