"""Worlds as datasets: pure functions of the index, the exact truth, compositions asked about."""

import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from chiasm.core.config import read_config
from chiasm.core.errors import ConfigError, InputError, UnknownNameError
from chiasm.core.samples import Sample
from chiasm.data.world import worlds
from chiasm.data.world.sampling import SceneConfig, is_held_out, stream
from chiasm.data.world.worlds import WORLDS, WorldConfig, WorldDataset, draw


def same(one: Sample, other: Sample) -> bool:
    pictures = (np.asarray(sample.images[0]) for sample in (one, other))
    return one.turns == other.turns and np.array_equal(*pictures)


@pytest.mark.parametrize("world", WORLDS)
def test_a_sample_is_a_pure_function_of_its_index(world: str) -> None:
    dataset = WorldDataset(world=world, count=30, questions_per_image=2)
    copy = pickle.loads(pickle.dumps(dataset))
    backwards = {index: copy[index] for index in (29, 7, 0)}
    assert all(same(dataset[index], sample) for index, sample in backwards.items())
    longer = WorldDataset(world=world, count=1_000_000, questions_per_image=2)
    assert same(longer[7], dataset[7]), "the length changes no sample"
    other = WorldDataset(world=world, count=30, seed=1, questions_per_image=2)
    assert not same(other[7], dataset[7])


def test_more_questions_do_not_change_the_picture() -> None:
    one = WorldDataset(world="shapes", count=5)
    many = WorldDataset(world="shapes", count=5, questions_per_image=4)
    assert all(np.array_equal(one[i].images[0], many[i].images[0]) for i in range(5))
    assert len(many[0].turns) == 8


def test_turns_and_truth() -> None:
    dataset = WorldDataset(
        world="shapes",
        count=40,
        questions_per_image=3,
        dense_rows=7,
        dense_columns=14,
        with_masks=True,
    )
    identifiers = set()
    for index in range(len(dataset)):
        sample = dataset[index]
        identifiers.add(sample.identifier)
        assert [turn.role for turn in sample.turns] == ["user", "assistant"] * 3
        assert [0 in turn.parts for turn in sample.turns] == [True, *[False] * 5]
        assert [turn.supervised for turn in sample.turns] == [False, True] * 3
        spoken = [turn.text for turn in sample.turns if turn.supervised]
        assert spoken == [answers[0] for answers in sample.truth["answers"]]
        assert sample.truth["cells"]["shape"].shape == (7, 14)
        for mask, (left, top, right, bottom) in zip(
            sample.truth["masks"], sample.truth["boxes"], strict=True
        ):
            assert mask[top:bottom, left:right].sum() == mask.sum() > 0
            assert mask[top].any() and mask[bottom - 1].any()
            assert mask[:, left].any() and mask[:, right - 1].any()
        kinds = set(sample.truth["kinds"])
        assert sample.group == (kinds.pop() if len(kinds) == 1 else "mixed")
    assert len(identifiers) == 40


def test_dense_labels_and_masks_are_optional() -> None:
    truth = WorldDataset(world="single", count=1)[0].truth
    assert not {"cells", "masks"} & set(truth)


def test_worlds_are_what_they_are_called() -> None:
    def samples(world: str) -> list[Sample]:
        dataset = WorldDataset(world=world, count=60)
        return [dataset[index] for index in range(60)]

    assert {len(sample.truth["things"]) for sample in samples("single")} == {1}
    assert {sample.group for sample in samples("grain")} == {"grain"}
    periods = {t["texture_period"] for s in samples("shapes") for t in s.truth["things"]}
    assert periods == {8, 10}
    mixed = Counter(sample.group == "grain" for sample in samples("shapes_and_grain"))
    assert mixed[True] == mixed[False] == 30


@pytest.mark.parametrize("world", ["shapes", "grain"])
def test_compositions_are_asked_about(world: str) -> None:
    for index in range(80):
        item = draw(WORLDS[world], "composition", 0, index, 2)
        new = {
            place
            for place, t in enumerate(item.scene.things)
            if is_held_out(t.shape, t.colour, t.texture)
        }
        assert all(set(question.things) & new for question in item.questions)


def test_scenes_and_questions_draw_from_different_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []

    def recorded(*key: Any) -> np.random.Generator:
        keys.append(key)
        return stream(*key)

    monkeypatch.setattr(worlds, "stream", recorded)
    draw(WORLDS["shapes"], "train", 0, 4)
    assert len(keys) >= 2
    assert len(set(keys)) == len(keys)


def test_index_outside() -> None:
    dataset = WorldDataset(world="shapes", count=3)
    for index in (3, -1):
        with pytest.raises(IndexError, match="of 3"):
            dataset[index]


def test_wrong_arguments() -> None:
    with pytest.raises(UnknownNameError, match=r"world 'shape'.*Did you mean 'shapes'"):
        WorldDataset(world="shape")
    with pytest.raises(UnknownNameError, match="split 'dev'"):
        WorldDataset(world="shapes", split="dev")
    with pytest.raises(InputError, match="count=0"):
        WorldDataset(world="shapes", count=0)
    with pytest.raises(ValidationError, match=r"color.*known: colour, shape"):
        WorldConfig(parts=(SceneConfig(kinds=("color",)),))


def test_a_world_from_plain_values() -> None:
    config = read_config(WorldConfig, {"parts": [{"things": [2, 2], "kinds": ["relation"]}]}, "x")
    sample = WorldDataset(world=config, count=2)[1]
    assert sample.group == "relation"
    assert len(sample.truth["things"]) == 2


def test_a_world_without_questions_says_so() -> None:
    alone = WorldConfig(parts=(SceneConfig(things=(1, 1), kinds=("relation",)),))
    with pytest.raises(ConfigError, match=r"no question of the kinds.*add a kind"):
        draw(alone, "train", 0, 0)
