"""Controls of pairs: what stands in for image and reconstruction, and what that leaves alone."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from chiasm.core.errors import DataError, InputError, UnknownNameError
from chiasm.core.samples import Pair, Sample, Turn
from chiasm.data.masks import ArrayMask
from chiasm.data.pair_controls import PAIR_CONTROLS, ControlledPairs
from chiasm.data.world.worlds import WorldDataset
from tests.tiny import picture


class Pairs:
    """Samples of a file: pictures of their own sizes, the name of each in its truth."""

    def __init__(self, count: int = 7) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        known = Pair(
            reconstruction=picture(31, 37, seed=100 + index),
            hidden=ArrayMask(np.ones((23, 29), bool)),
            image_box=(1.0, 2.0, 3.0, 4.0 + index),
            reconstruction_box=(5.0, 6.0, 7.0, 8.0 + index),
            target=picture(23, 29, seed=200 + index),
        )
        turns = (Turn("user", (0, "?")), Turn("assistant", ("!",), True))
        truth = {"answers": ["!"], "shown": index, "errors": {"word": "pose"}}
        return Sample(str(index), turns, (picture(23, 29, seed=index),), truth=truth, pair=known)


def pair(sample: Sample) -> Pair:
    assert sample.pair is not None
    return sample.pair


def test_given_changes_nothing() -> None:
    made = ControlledPairs(Pairs(), "given")
    assert len(made) == 7
    assert made[3].truth == Pairs()[3].truth and pair(made[3]).image_box == (1, 2, 3, 7)


def test_original_only_shows_the_original_twice() -> None:
    made = ControlledPairs(Pairs(), "original_only")[3]
    assert pair(made).reconstruction is made.images[0]
    assert pair(made).reconstruction_box == pair(made).image_box == (1, 2, 3, 7)
    assert pair(made).hidden is not None and pair(made).target is not None
    assert made.truth == {"answers": ["!"], "control": "original_only"}


def test_a_mask_moves_no_original_against_itself() -> None:
    """A mask alone finds the box in one of the two pictures, which are the same."""
    known = replace(pair(Pairs()[0]), image_box=None, reconstruction_box=(5.0, 6.0, 7.0, 8.0))
    boxless = replace(Pairs()[0], pair=known)
    made = pair(ControlledPairs([boxless, boxless], "original_only")[0])
    assert made.image_box == made.reconstruction_box == (0, 0, 29, 23)
    assert made.hidden is known.hidden
    seen = replace(boxless, pair=replace(known, hidden=None))
    free = pair(ControlledPairs([seen, seen], "original_only")[0])
    assert free.image_box is None and free.reconstruction_box is None


def test_reconstruction_only_shows_the_reconstruction_twice() -> None:
    made = ControlledPairs(Pairs(), "reconstruction_only")[3]
    assert made.images == (pair(made).reconstruction,)
    assert pair(made).image_box == pair(made).reconstruction_box == (5, 6, 7, 11)
    assert pair(made).hidden is None, "the mask lies in the frame of what is not shown"
    target = pair(made).target
    assert isinstance(target, Image.Image) and target.size == (37, 31)
    expected = picture(23, 29, seed=203).resize((37, 31), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(target), np.asarray(expected))
    same = replace(Pairs()[0], pair=replace(pair(Pairs()[0]), reconstruction=picture(23, 29)))
    kept = ControlledPairs([same, same], "reconstruction_only")[0]
    assert pair(kept).target is pair(same).target, "nothing is resized that fits"


def test_dense_labels_are_of_the_picture_that_is_shown() -> None:
    world = WorldDataset(world="occluded", count=5, dense_rows=8, dense_columns=8)
    for index in range(5):
        given = world[index]
        made = ControlledPairs(world, "reconstruction_only")[index]
        blocks = np.asarray(made.images[0]).reshape(8, 8, 8, 8, 3)
        seen = np.asarray(blocks.any((1, 3, 4)))
        labels = made.truth["cells"]["shape"]
        assert seen[labels > 0].all() and (labels[~seen] == 0).all() and (labels > 0).any()
        assert not np.array_equal(labels, given.truth["cells"]["shape"])
        kept = ControlledPairs(world, "original_only")[index].truth
        assert np.array_equal(kept["cells"]["shape"], given.truth["cells"]["shape"])
        assert "shown_cells" not in kept
        shuffled = ControlledPairs(world, "shuffled")
        donor = world[shuffled.donor(index)].truth
        moved = shuffled[index].truth["shown_cells"]
        assert np.array_equal(moved["shape"], donor["shown_cells"]["shape"])


def test_labels_of_another_picture_are_left_out() -> None:
    labelled = replace(Pairs()[0], truth={"cells": {"shape": np.ones((2, 2), int)}})
    made = ControlledPairs([labelled, labelled], "reconstruction_only")[0]
    assert "cells" not in made.truth


@pytest.mark.parametrize("count", [2, 7, 101])
def test_shuffled_gives_each_the_reconstruction_of_another(count: int) -> None:
    made = ControlledPairs(Pairs(count), "shuffled")
    donors = [made.donor(index) for index in range(count)]
    assert sorted(donors) == list(range(count)), "each is passed on once"
    assert all(donor != index for index, donor in enumerate(donors))
    again = pickle.loads(pickle.dumps(made))
    assert [again.donor(index) for index in range(count)] == donors
    sample, donor = made[1], Pairs(count)[donors[1]]
    assert pair(sample).reconstruction == pair(donor).reconstruction
    assert pair(sample).reconstruction_box == pair(donor).reconstruction_box
    assert pair(sample).image_box == (1, 2, 3, 5) and sample.images == Pairs()[1].images
    assert sample.truth == {"answers": ["!"], "shown": donors[1], "control": "shuffled"}


def test_a_longer_ring_is_no_shift_by_one() -> None:
    """Neighbours of a file are often questions about one thing."""
    made = ControlledPairs(Pairs(101), "shuffled")
    steps = {(made.donor(index) - index) % 101 for index in range(101)}
    assert len(steps) > 30


def test_mask_known_tells_what_the_world_knows() -> None:
    world = WorldDataset(world="occluded", count=3)
    assert pair(world[1]).hidden is None
    made = ControlledPairs(world, "mask_known")[1]
    hidden = pair(made).hidden
    assert hidden is not None and np.array_equal(hidden.read(), world[1].truth["hidden"])
    told = ControlledPairs(Pairs(), "mask_known")[1]
    assert pair(told).hidden is not None
    blind = [replace(Pairs()[0], pair=replace(pair(Pairs()[0]), hidden=None))] * 2
    with pytest.raises(DataError, match="0: nobody knows which pixels are hidden; give `occlusion"):
        ControlledPairs(blind, "mask_known")[0]


def test_wrong_takes_only_what_is_known_to_be_wrong() -> None:
    wrong = WorldDataset(world="occluded", count=3, wrong_objects=True)
    assert ControlledPairs(wrong, "wrong")[2].truth["control"] == "wrong"
    with pytest.raises(DataError, match="2: its reconstruction is not known to show another"):
        ControlledPairs(Pairs(), "wrong")[2]


@pytest.mark.parametrize("control", PAIR_CONTROLS)
def test_a_sample_without_a_pair_is_named(control: str) -> None:
    alone = WorldDataset(world="single", count=2)
    with pytest.raises(DataError, match=r"world single .*has no reconstruction, so no control"):
        ControlledPairs(alone, control)[0]  # type: ignore[arg-type]


def test_controls_that_cannot_be_are_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown control of pairs 'shufled'.*'shuffled'"):
        ControlledPairs(Pairs(), "shufled")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"shuffled reconstructions of 1 sample\(s\); give at"):
        ControlledPairs(Pairs(1), "shuffled")
    with pytest.raises(IndexError):
        ControlledPairs(Pairs(), "given")[7]
