"""A model of long videos that differs by domain: parts, identity start, routes, learning."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from chiasm.core.batch import Batch
from chiasm.core.config import read_config
from chiasm.core.errors import ConfigError, InputError
from chiasm.data.world.motion_worlds import MotionDataset
from chiasm.language.parts import check_cover
from chiasm.layers.attention import ATTENTION
from chiasm.models.long_video import LongVideo
from chiasm.recipes.build import build_objective
from chiasm.recipes.objective_choice import ObjectiveChoice
from chiasm.recipes.video_choice import VideoChoice
from chiasm.recipes.video_models import build_video

OBJECTIVE = ObjectiveChoice(answers=1.0, router={"domain": 0.5, "balance": 0.1})


def build(by_domain: dict[str, Any] | None, attention: str = "dense") -> LongVideo:
    torch.manual_seed(3)
    choice = {
        "frames": {"cell": 32, "stem": 5, "channels": [7], "width": 22},
        "reader": {"attention": attention, "options": {}, "depth": 2, "heads": 2},
        "answer_head": {"depth": 1, "heads": 2},
        "sampling": {"kind": "uniform", "count": 3},
        "by_domain": by_domain,
    }
    return build_video(read_config(VideoChoice, choice, "video"), OBJECTIVE).eval()


@pytest.fixture(scope="module")
def batch() -> Batch:
    data = MotionDataset(world="motion", seed=3, count=5)
    return build(None).collator([data[index] for index in range(5)])


def test_fresh_domains_change_no_bit_of_the_answers(batch: Batch) -> None:
    plain = build(None)(batch).named["answers"]
    model = build({"adapters": {"rank": 2}, "experts": {"hidden": 13}})
    named = model(batch).named
    assert torch.equal(named["answers"], plain)
    assert named["router"].shape == named["router.logits"].shape == (5, 4)
    torch.testing.assert_close(named["router"], named["router.logits"].softmax(-1))


@pytest.mark.parametrize("attention", sorted(ATTENTION))
def test_domains_are_a_part_of_their_own_and_the_rest_stays_what_it_was(attention: str) -> None:
    plain = build(None, attention).parts
    model = build({"adapters": {"rank": 2}, "experts": {}}, attention)
    check_cover(model, model.parts)
    assert set(model.parts) == {*plain, "domains"}
    for name, part in plain.items():
        assert sum(p.numel() for p in model.parts[name].parameters()) == sum(
            p.numel() for p in part.parameters()
        )
    names = [name for name, _ in model.parts["domains"].named_parameters()]
    assert {name.split(".")[0] for name in names} == {"adapters", "experts", "router"}
    held = model.by_domain.adapters.parameters
    assert sum(held.values()) == sum(
        p.numel() for p in model.parts["domains"]["adapters"].parameters()
    )


def test_all_of_it_learns(batch: Batch) -> None:
    model = build({"adapters": {"rank": 2, "dropout": 0.0}, "experts": {"hidden": 13}}).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    objective = build_objective(OBJECTIVE)
    first = {name: value.clone() for name, value in model.parts["domains"].named_parameters()}
    for _ in range(2):
        optimiser.zero_grad()
        scores = objective.score(model(batch), batch)
        sum(scores.values()).backward()
        optimiser.step()
    assert set(scores) == {"answers", "router.domain", "router.balance"}
    for name, value in model.parts["domains"].named_parameters():
        assert not torch.equal(value, first[name]), name


def test_without_a_router_each_video_says_its_domain(batch: Batch) -> None:
    model = build({"adapters": {"rank": 2}, "router": None})
    assert set(model(batch).named) == {"answers"}
    before = model(batch).named["answers"]
    with torch.no_grad():
        for name, value in model.parts["domains"].named_parameters():
            if ".news." in name:
                value.add_(0.5)
    moved = (model(batch).named["answers"] != before).any(1)
    assert moved.tolist() == [sample.group == "news" for sample in batch.samples]


def test_a_copy_has_adapters_of_its_own(batch: Batch) -> None:
    model = build({"adapters": {"rank": 2}})
    twin = copy.deepcopy(model)
    before = model(batch).named["answers"]
    with torch.no_grad():
        for value in twin.parts["domains"].parameters():
            value.add_(0.5)
    assert torch.equal(model(batch).named["answers"], before)
    assert not torch.allclose(twin(batch).named["answers"], before, atol=1e-3)


def test_what_a_saved_model_says_is_said_again(batch: Batch) -> None:
    model, other = build({"adapters": {"rank": 2}}), build({"adapters": {"rank": 2}})
    with torch.no_grad():
        for value in model.parts["domains"].parameters():
            value.add_(0.3 * torch.randn_like(value))
    expected = model(batch).named["answers"]
    assert not torch.allclose(other(batch).named["answers"], expected)
    for name, part in other.parts.items():
        part.load_state_dict(model.parts[name].state_dict())
    assert torch.equal(other(batch).named["answers"], expected)


def test_a_reader_with_domains_is_not_read_without_a_route(batch: Batch) -> None:
    model = build({"adapters": {"rank": 2}})
    assert batch.videos is not None
    with pytest.raises(InputError, match=r"without a route .* choose their domains first"):
        model.reading.read(batch.videos)
    model.by_domain.adapters.select("news")
    model.reading.read(batch.videos)


def test_more_domains_than_there_are_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"`by_domain`: top 5 of 4 domains"):
        build({"router": {"top": 5}})
    with pytest.raises(ValueError, match=r"unknown terms of `router`: \['balanced'\]; known: dom"):
        ObjectiveChoice(router={"balanced": 1.0})
