import pytest
import torch
from torch import nn

from chiasm.core.errors import CheckpointError
from chiasm.training.freezing import freeze_all_but
from chiasm.training.optimiser import (
    build_optimizer,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rates,
)
from chiasm.training.settings import StageSettings, TrainingSettings
from tests.unit.training.small import SmallModel, SmallObjective, collate, sample

SETTINGS = TrainingSettings(
    stages=(StageSettings(name="a", steps=1, train=("*",), learning_rate=1.0),), weight_decay=0.3
)


def gradients(model: SmallModel) -> None:
    batch = collate([sample(index) for index in range(5)])
    torch.stack(list(SmallObjective().score(model(batch), batch).values())).sum().backward()


def test_groups_by_part_and_axes() -> None:
    model = SmallModel()
    optimizer = build_optimizer(model, SETTINGS)
    names = [name for group in optimizer.param_groups for name in group["names"]]
    assert sorted(names) == sorted(set(names)) and len(names) == len(list(model.parameters()))
    for group in optimizer.param_groups:
        assert all(name.startswith(f"{group['part']}/") for name in group["names"])
        decays = all(parameter.ndim >= 2 for parameter in group["params"])
        assert group["weight_decay"] == (0.3 if decays else 0.0)
    decaying = {n for g in optimizer.param_groups if g["weight_decay"] for n in g["names"]}
    assert "head/1.weight" in decaying and "head/0.weight" not in decaying


def test_it_is_torchs_adamw() -> None:
    """Parity with plain AdamW over two groups, to the last bit."""
    own, other = SmallModel(dropout=0.0), SmallModel(dropout=0.0)
    optimizer = build_optimizer(own, SETTINGS)
    set_learning_rates(optimizer, dict.fromkeys(own.parts, 0.01))
    matrices = [p for p in other.parameters() if p.ndim >= 2]
    vectors = [p for p in other.parameters() if p.ndim < 2]
    reference = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.0}],
        lr=0.01,
        fused=True,
    )
    for _ in range(3):
        for model, step in ((own, optimizer), (other, reference)):
            step.zero_grad()
            gradients(model)
            step.step()
    for one, two in zip(own.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_frozen_part_keeps_its_state() -> None:
    model = SmallModel(dropout=0.0)
    optimizer = build_optimizer(model, SETTINGS)
    set_learning_rates(optimizer, dict.fromkeys(model.parts, 0.01))
    gradients(model)
    optimizer.step()
    before = {key: value.clone() for key, value in optimizer_tensors(optimizer).items()}
    weight = model.head[1].weight.detach().clone()
    freeze_all_but(model, {"fusion.gate"})
    gradients(model)
    optimizer.step()
    after = optimizer_tensors(optimizer)
    frozen = [key for key in before if not key.startswith("fusion.gate/")]
    assert all(torch.equal(before[key], after[key]) for key in frozen)
    assert torch.equal(weight, model.head[1].weight)
    assert not torch.equal(before["fusion.gate/weight:step"], after["fusion.gate/weight:step"])


def test_rates_by_part() -> None:
    optimizer = build_optimizer(SmallModel(), SETTINGS)
    set_learning_rates(optimizer, {"head": 0.5})
    assert {g["lr"] for g in optimizer.param_groups if g["part"] == "head"} == {0.5}
    assert {g["lr"] for g in optimizer.param_groups if g["part"] != "head"} == {0.0}


def test_state_goes_through_plain_tensors() -> None:
    model = SmallModel(dropout=0.0)
    optimizer = build_optimizer(model, SETTINGS)
    set_learning_rates(optimizer, dict.fromkeys(model.parts, 0.01))
    freeze_all_but(model, {"head"})
    gradients(model)
    optimizer.step()
    saved = {key: value.clone() for key, value in optimizer_tensors(optimizer).items()}
    assert set(saved) == {
        f"head/{name}:{slot}"
        for name, _ in model.head.named_parameters()
        for slot in ("step", "exp_avg", "exp_avg_sq")
    }
    fresh = build_optimizer(model, SETTINGS)
    load_optimizer_tensors(fresh, saved)
    assert all(torch.equal(optimizer_tensors(fresh)[key], saved[key]) for key in saved)


def test_foreign_state_is_refused() -> None:
    optimizer = build_optimizer(SmallModel(), SETTINGS)
    with pytest.raises(
        CheckpointError, match="the optimizer state has the parameter 'tail/weight'"
    ):
        load_optimizer_tensors(optimizer, {"tail/weight:step": torch.ones(())})


def test_parts_can_be_left_out() -> None:
    optimizer = build_optimizer(SmallModel(), SETTINGS, parts={"head"})
    assert {group["part"] for group in optimizer.param_groups} == {"head"}
    assert isinstance(optimizer.param_groups[0]["params"][0], nn.Parameter)
