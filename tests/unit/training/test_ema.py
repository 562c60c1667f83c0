import torch

from chiasm.training.ema import WeightAverage
from chiasm.training.freezing import freeze_all_but
from tests.unit.training.small import SmallModel


def moved(model: SmallModel, by: float) -> None:
    with torch.no_grad():
        model.gate.weight += by


def test_the_average_follows_its_formula() -> None:
    model = SmallModel()
    freeze_all_but(model, {"fusion.gate"})
    average = WeightAverage(0.9)
    average.join(model)
    expected = model.gate.weight.detach().double().clone()
    for update in range(100):
        moved(model, 0.1)
        average.update(model)
        decay = min(0.9, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * model.gate.weight.detach().double()
    difference = (average.averages["fusion.gate/weight"] - expected).abs().max()
    assert float(difference) < 1e-5  # measured: 1.9e-6 at values near 10
    assert set(average.averages) == {"fusion.gate/weight", "fusion.gate/bias"}


def test_inside_the_averages_outside_the_weights_bit_for_bit() -> None:
    model = SmallModel()
    average = WeightAverage(0.9)
    average.join(model)
    moved(model, 1 / 3)
    own = model.gate.weight.detach().clone()
    with average.applied(model):
        assert torch.equal(model.gate.weight, average.averages["fusion.gate/weight"])
        assert not torch.equal(model.gate.weight, own)
    assert torch.equal(model.gate.weight, own)


def test_a_part_joins_when_it_first_trains_and_then_rests() -> None:
    model = SmallModel()
    average = WeightAverage(0.5)
    freeze_all_but(model, {"head"})
    average.join(model)
    average.update(model)
    freeze_all_but(model, {"fusion.gate"})
    average.join(model)
    head = average.averages["head/1.weight"].clone()
    with torch.no_grad():
        model.head[1].weight += 1
    average.update(model)
    assert torch.equal(average.averages["head/1.weight"], head)
    assert "fusion.gate/weight" in average.averages


def test_averages_are_float32_whatever_the_weights() -> None:
    model = SmallModel().bfloat16()
    average = WeightAverage(0.999)
    average.join(model)
    average.updates = 10**6
    with torch.no_grad():
        model.gate.weight.fill_(1.0)
    before = average.averages["fusion.gate/weight"].clone()
    average.update(model)
    # A step of a thousandth is lost in bfloat16.
    assert (average.averages["fusion.gate/weight"] != before).all()
