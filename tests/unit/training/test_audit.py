from collections.abc import Collection

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chiasm.core.errors import AuditError
from chiasm.training.audit import Audit, fingerprint
from chiasm.training.freezing import freeze_all_but
from chiasm.training.optimiser import build_optimizer, set_learning_rates
from chiasm.training.settings import StageSettings, TrainingSettings
from tests.unit.training.small import SmallModel, SmallObjective, collate, sample

SETTINGS = TrainingSettings(
    stages=(StageSettings(name="a", steps=1, train=("*",), learning_rate=1.0),), weight_decay=0.0
)


class Stage:
    """A stage in small: what the loop does around an audit."""

    def __init__(
        self,
        model: SmallModel,
        trains: Collection[str],
        rate: float = 0.01,
        groups: Collection[str] | None = None,
    ) -> None:
        self.model = model
        freeze_all_but(model, trains)
        self.optimizer = build_optimizer(model, SETTINGS, groups)
        set_learning_rates(self.optimizer, dict.fromkeys(trains, rate))
        grouped = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        self.audit = Audit(model, trains, grouped, patience=3)

    def step(self) -> list[str]:
        batch = collate([sample(index) for index in range(5)])
        # The gate's own term would reach the encoders past a zero output.
        SmallObjective().score(self.model(batch), batch)["tokens"].backward()
        self.audit.see_gradients(self.model)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self.audit.see_step(self.model)


def test_a_sound_stage_passes_at_once() -> None:
    stage = Stage(SmallModel(), {"fusion.gate", "head"})
    assert stage.step() == []
    assert not stage.audit.open
    stage.audit.see_end(stage.model)


def test_behind_a_zero_output_is_looked_at_again() -> None:
    """The encoder's gradient is exactly zero in the first step and no longer in the second."""
    stage = Stage(SmallModel(dropout=0.0, zero_start=True), {"encoder.left", "fusion.output"})
    waiting = stage.step()
    assert len(waiting) == 1
    assert waiting[0].startswith("encoder.left: its gradient is exactly zero; behind a zero-init")
    assert stage.audit.open
    assert stage.step() == []


class Blind(SmallModel):
    """Computes its left encoder without gradients, as an upstream program did."""

    def __init__(self) -> None:
        super().__init__(dropout=0.0)
        left = self.left.forward

        def forward(tokens: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return left(tokens)

        self.left.forward = forward  # type: ignore[method-assign]


def test_a_part_that_no_gradient_reaches() -> None:
    stage = Stage(Blind(), {"encoder.left", "head"})
    assert "no gradient reaches it" in stage.step()[0]
    assert "no gradient reaches it" in stage.step()[0]
    with pytest.raises(AuditError) as caught:
        stage.step()
    message = str(caught.value)
    assert "after 3 step(s)" in message and "encoder.left: no gradient reaches it" in message
    # The table names every part.
    assert all(f"    {part}" in message for part in stage.model.parts)


def test_a_part_that_does_not_move() -> None:
    model = SmallModel(dropout=0.0).bfloat16()
    with torch.no_grad():
        # A bias at zero would move by any step; near one, bfloat16 has no number for it.
        for parameter in model.head.parameters():
            parameter += 1
    stage = Stage(model, {"head"}, rate=1e-9)
    stage.step()
    stage.step()
    with pytest.raises(AuditError, match="the learning rate is too small for their type"):
        stage.step()


def test_a_frozen_part_that_moves() -> None:
    stage = Stage(SmallModel(), {"head"})
    stage.step()
    with torch.no_grad():
        stage.model.gate.weight[0, 3] += 1e-6
    with pytest.raises(
        AuditError, match=r"fusion\.gate: frozen, but its weights or buffers changed"
    ):
        stage.audit.see_end(stage.model)


def test_a_frozen_part_that_wants_gradients() -> None:
    model = SmallModel()
    freeze_all_but(model, {"head", "fusion.gate"})
    audit = Audit(model, {"head"}, set(), patience=3)
    with pytest.raises(AuditError, match=r"fusion\.gate: frozen, but 2 parameters require"):
        audit.see_step(model)


def test_a_declared_part_that_does_not_ask_for_gradients() -> None:
    model = SmallModel()
    freeze_all_but(model, {"head"})
    audit = Audit(model, {"head", "fusion.gate"}, {id(p) for p in model.parameters()}, patience=3)
    with pytest.raises(AuditError, match=r"fusion\.gate: only 0 of 2 parameters require"):
        audit.see_step(model)


def test_a_part_that_the_optimizer_lacks() -> None:
    stage = Stage(SmallModel(), {"head", "fusion.gate"}, groups={"head"})
    with pytest.raises(AuditError, match=r"fusion\.gate: the optimizer has only 0 of 2"):
        stage.step()


class WithStatistics(SmallModel):
    def __init__(self) -> None:
        super().__init__()
        self.gate.register_buffer("mean", torch.zeros(3))


def test_running_statistics_are_no_proof_of_training() -> None:
    model = WithStatistics()
    stage = Stage(model, {"fusion.gate"}, rate=0.0)
    model.gate.mean += 1
    assert "none of its weights changed" in stage.step()[0]


def test_running_statistics_of_a_frozen_part_must_rest() -> None:
    model = WithStatistics()
    stage = Stage(model, {"head"})
    model.gate.mean += 1
    with pytest.raises(AuditError, match=r"fusion\.gate: frozen, but"):
        stage.step()


def test_an_audit_goes_through_json() -> None:
    stage = Stage(SmallModel(dropout=0.0, zero_start=True), {"encoder.left", "fusion.output"})
    stage.step()
    other = Audit(stage.model, (), (), patience=3)
    other.restore(stage.audit.to_json())
    stage.audit = other
    assert other.open and other.steps == 1
    assert stage.step() == []


@given(
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool]),
    st.integers(0, 18),
)
def test_one_changed_element_changes_the_fingerprint(dtype: torch.dtype, place: int) -> None:
    tensor = (torch.arange(19) % 2).to(dtype)
    before = fingerprint(tensor)
    assert fingerprint(tensor.clone()) == before
    tensor[place] = 1 - tensor[place].to(torch.int64)
    assert fingerprint(tensor) != before


def test_the_fingerprint_minds_places_and_signs_and_the_last_bit() -> None:
    tensor = torch.tensor([1.0, 2.0, 0.0])
    assert fingerprint(tensor) != fingerprint(tensor.flip(0))
    assert fingerprint(torch.zeros(2)) != fingerprint(-torch.zeros(2))
    assert fingerprint(torch.tensor([1.0])) != fingerprint(torch.tensor([1.0 + 2**-23]))
    assert fingerprint(torch.zeros(0)) == 0
    wide = torch.rand(7, 11)
    assert fingerprint(wide.t()) == fingerprint(wide.t().contiguous())
