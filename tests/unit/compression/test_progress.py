"""How far a curriculum of compression is, and that it goes on in a part that does not train."""

import pytest
import torch
from torch import nn

from chiasm.compression.progress import Progress
from chiasm.core.counting import counters
from chiasm.core.errors import AuditError
from chiasm.training.audit import Audit
from tests.unit.training.small import SmallModel


def moved(progress: Progress, batches: int) -> float:
    for _ in range(batches):
        progress.move(training=True)
    return progress.part(training=True)


@pytest.mark.parametrize(("batches", "part"), [(1, 0.0), (3, 0.4), (6, 1.0), (11, 1.0)])
def test_it_goes_from_nothing_to_all_and_stays(batches: int, part: float) -> None:
    assert moved(Progress(5), batches) == part


def test_a_cycle_begins_again() -> None:
    assert moved(Progress(5, cycle=True), 7) == 0.2


def test_outside_of_training_nothing_is_counted_and_all_is_over() -> None:
    progress = Progress(5)
    moved(progress, 2)
    progress.move(training=False)
    assert progress.part(training=False) == 1.0
    assert progress.part(training=True) == 0.2


def test_no_curriculum_is_over_from_the_start() -> None:
    progress = Progress(None)
    assert moved(progress, 3) == 1.0
    assert int(progress.seen) == 0


def test_a_frozen_part_may_count_but_not_change() -> None:
    class Counting(SmallModel):
        def __init__(self) -> None:
            super().__init__()
            self.progress = Progress(5)

        @property
        def parts(self) -> dict[str, nn.Module]:
            counted = nn.ModuleDict({"map": self.gate, "progress": self.progress})
            return {**super().parts, "fusion.gate": counted}

    model = Counting()
    assert counters(model.parts["fusion.gate"]) == {"progress.seen"}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("head."))
    optimized = {id(parameter) for parameter in model.head.parameters()}
    audit = Audit(model, {"head"}, optimized, patience=3)
    model.progress.move(training=True)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.grad = torch.ones_like(parameter)
            parameter += 1
    audit.see_end(model)
    with torch.no_grad():
        model.gate.weight[0, 3] += 1e-6
    with pytest.raises(AuditError, match=r"fusion\.gate: frozen, but its weights"):
        audit.see_end(model)
