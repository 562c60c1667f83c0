import math
from itertools import pairwise

import pytest
import torch

from chiasm.training.schedule import rate_factor, warmup_steps
from chiasm.training.settings import ScheduleName, StageSettings


def stage(
    schedule: ScheduleName = "constant", warmup: float = 0, minimum: float = 0
) -> StageSettings:
    return StageSettings(
        name="a",
        steps=23,
        train=("*",),
        learning_rate=1.0,
        schedule=schedule,
        warmup=warmup,
        minimum_ratio=minimum,
    )


def test_warmup_rises_to_the_peak_and_never_gives_zero() -> None:
    factors = [rate_factor(stage(warmup=5), step, 23) for step in range(7)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1])


def test_warmup_may_be_a_share() -> None:
    assert warmup_steps(stage(warmup=0.1), 23) == 3
    assert warmup_steps(stage(warmup=7), 23) == 7
    assert warmup_steps(stage(), 23) == 0


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_falls_from_the_peak_towards_the_minimum(name: ScheduleName) -> None:
    found = [rate_factor(stage(name, warmup=2, minimum=0.1), step, 23) for step in range(24)]
    assert found[2] == 1.0 and found[23] == pytest.approx(0.1)
    assert all(later < earlier for earlier, later in pairwise(found[2:]))
    middle = rate_factor(stage(name, minimum=0.1), 10, 20)
    assert middle == pytest.approx(0.55)


def test_cosine_is_torchs() -> None:
    """Parity with torch.optim.lr_scheduler.CosineAnnealingLR; measured difference 3e-16."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=23, eta_min=0.2)
    for step in range(23):
        own = rate_factor(stage("cosine", minimum=0.2), step, 23)
        assert own == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        reference.step()


def test_a_quarter_of_the_cosine() -> None:
    expected = 0.5 * (1 + math.cos(math.pi / 4))
    assert rate_factor(stage("cosine"), 5, 20) == pytest.approx(expected)
