"""Phrases of worlds: each fits one thing alone, and comes with the pixels of it that show."""

import pickle

import numpy as np
import pytest

from chiasm.core.errors import InputError
from chiasm.core.samples import Sample
from chiasm.data.world.sampling import SceneConfig, is_held_out
from chiasm.data.world.scene import SIZES
from chiasm.data.world.worlds import POINTING_REQUEST, WorldConfig, WorldDataset


def fits(words: str, attributes: dict[str, str]) -> bool:
    """Whether the words "the small red circle" or "the red thing" are true of a thing."""
    named = set(words.removeprefix("the ").split()) - {"thing"}
    return named <= set(attributes.values())


def attributes_of(sample: Sample) -> list[dict[str, str]]:
    found = []
    side = min(sample.truth["scene"]["height"], sample.truth["scene"]["width"])
    for thing in sample.truth["things"]:
        part = thing["size"] / side
        size = min(SIZES, key=lambda name: abs(part - sum(SIZES[name]) / 2))
        found.append({**{key: thing[key] for key in ("shape", "colour", "texture")}, "size": size})
    return found


def test_each_phrase_is_true_of_its_thing_alone() -> None:
    dataset = WorldDataset(world="shapes", count=60, phrases=3)
    for index in range(60):
        sample = dataset[index]
        user, assistant = sample.turns
        assert user.parts == (0, POINTING_REQUEST)
        assert not assistant.supervised
        words = [assistant.text[phrase.start : phrase.stop] for phrase in sample.phrases]
        assert ". ".join(words) == assistant.text
        assert len(set(words)) == len(words) <= 3
        assert len({phrase.identifier for phrase in sample.phrases}) == len(words)
        for text, phrase, thing in zip(
            words, sample.phrases, sample.truth["referred"], strict=True
        ):
            true_of = [i for i, found in enumerate(attributes_of(sample)) if fits(text, found)]
            assert true_of == [thing], (text, true_of)
            assert phrase.turn == 1 and phrase.image == 0 and phrase.thing is True


def test_the_mask_is_what_shows_of_the_thing() -> None:
    crowded = WorldConfig(parts=(SceneConfig(things=(3, 3), overlap=0.6),))
    plain = WorldDataset(world=crowded, count=20, with_masks=True, phrases=3)
    covered = 0
    for index in range(20):
        sample = plain[index]
        for phrase, thing in zip(sample.phrases, sample.truth["referred"], strict=True):
            assert phrase.mask is not None
            mask = phrase.mask.read()
            assert np.array_equal(mask, sample.truth["masks"][thing]) and mask.any()
            covered += bool((mask != sample.truth["whole_masks"][thing]).any())
    assert covered > 0, "no thing stood behind another, so this told nothing"


def test_every_thing_is_named_before_one_is_named_twice() -> None:
    dataset = WorldDataset(world="shapes", count=40, phrases=5)
    repeated = 0
    for index in range(40):
        sample = dataset[index]
        referred = sample.truth["referred"]
        things = len(sample.truth["things"])
        assert sorted(referred[:things]) == list(range(things))
        repeated += len(referred) > things
    assert repeated > 30


def test_phrases_are_a_pure_function_of_seed_split_and_index() -> None:
    dataset = WorldDataset(world="shapes", count=9, phrases=3)
    again = pickle.loads(pickle.dumps(dataset))
    assert [again[index].turns for index in (8, 0, 3)] == [
        dataset[index].turns for index in (8, 0, 3)
    ]
    for other in (
        WorldDataset(world="shapes", count=9, phrases=3, seed=1),
        WorldDataset(world="shapes", count=9, phrases=3, split="test"),
    ):
        assert [other[index].turns for index in range(9)] != [
            dataset[index].turns for index in range(9)
        ]
    fewer = WorldDataset(world="shapes", count=9, phrases=1)
    assert all(dataset[i].turns[1].text.startswith(fewer[i].turns[1].text) for i in range(9))


def test_pictures_are_those_of_the_questions() -> None:
    asking = WorldDataset(world="shapes", count=5)
    pointing = WorldDataset(world="shapes", count=5, phrases=2)
    assert all(np.array_equal(asking[i].images[0], pointing[i].images[0]) for i in range(5))


def test_held_out_compositions_are_named_first() -> None:
    dataset = WorldDataset(world="shapes", count=20, phrases=1, split="composition")
    for index in range(20):
        sample = dataset[index]
        thing = sample.truth["things"][sample.truth["referred"][0]]
        assert is_held_out(thing["shape"], thing["colour"], thing["texture"])


def test_words_are_supervised_where_asked() -> None:
    sample = WorldDataset(world="single", count=1, phrases=1, supervise_phrases=True)[0]
    assert [turn.supervised for turn in sample.turns] == [False, True]


def test_worlds_without_telling_phrases_are_refused() -> None:
    alike = WorldConfig(parts=(SceneConfig(distinct=False),))
    with pytest.raises(InputError, match=r"phrases=2 in a world .* distinct=true"):
        WorldDataset(world=alike, phrases=2)
    with pytest.raises(InputError, match="phrases=-1"):
        WorldDataset(world="shapes", phrases=-1)
