"""Parts that share no image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from chiasm.core.errors import InputError
from chiasm.core.samples import ImageSource, Sample, Turn
from chiasm.data.dataset import FileDataset
from chiasm.data.splitting import image_name, split_by_image

PARTS = {"train": 0.7, "held_out": 0.3}


def dataset(*images: Sequence[ImageSource]) -> FileDataset:
    turns = (Turn("user", ("?",)),)
    samples = [Sample(f"s{i}", turns, tuple(sources)) for i, sources in enumerate(images)]
    return FileDataset(samples, Path("none"), "test")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 25), min_size=1, max_size=3), max_size=20), st.integers(0))
def test_no_image_lies_on_two_sides(images: list[list[int]], seed: int) -> None:
    data = dataset(*[[Path(f"{image}.jpg") for image in found] for found in images])
    parts = split_by_image(data, PARTS, seed)
    sides = [
        {name for sample in (part[i] for i in range(len(part))) for name in sample.images}
        for part in parts.values()
    ]
    assert not sides[0] & sides[1]
    assert sorted(parts["train"].places + parts["held_out"].places) == list(range(len(images)))


def test_an_image_keeps_its_side_whoever_is_beside_it() -> None:
    alone = {
        image: next(
            name
            for name, part in split_by_image(dataset([Path(f"{image}.jpg")]), PARTS).items()
            if len(part)
        )
        for image in range(200)
    }
    parts = split_by_image(dataset(*[[f"x/0000{image}.png"] for image in range(200)]), PARTS)
    assert all(alone[place] == name for name, part in parts.items() for place in part.places)
    assert 40 < len(parts["held_out"]) < 80
    other = split_by_image(dataset(*[[f"{image}.png"] for image in range(200)]), PARTS, seed=1)
    assert other["train"].places != parts["train"].places


def test_names_of_images(tmp_path: Path) -> None:
    assert image_name("train2014/COCO_train2014_000000000009.jpg") == "9"
    assert image_name(Path("images/000000000009.png")) == "9"
    assert image_name("a/cup.png") == "cup"
    pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    assert image_name(pixels) == image_name(Image.fromarray(pixels)) != image_name(pixels[:4])
    assert image_name(b"abc") != image_name(b"abd")
    assert image_name("data:,abc") != image_name("data:,abd")


def test_parts_are_views() -> None:
    data = dataset(*[[f"{image}.png"] for image in range(20)])
    part = split_by_image(data, PARTS)["train"]
    assert [part[i].identifier for i in range(len(part))] == [f"s{i}" for i in part.places]
    with pytest.raises(IndexError, match=f"sample {len(part)} of {len(part)}"):
        part[len(part)]
    with pytest.raises(IndexError):
        part[-1]


@pytest.mark.parametrize("fractions", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}])
def test_fractions_must_sum_to_one(fractions: dict[str, float]) -> None:
    with pytest.raises(InputError, match="give parts of at least 0 that sum to 1"):
        split_by_image(dataset(["a.png"]), fractions)
