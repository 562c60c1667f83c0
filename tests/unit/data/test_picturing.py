"""Pictures of samples as a batch: which, in what order, and where they lie."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from chiasm.core.errors import DataError
from chiasm.core.samples import Pair, Sample, Turn
from chiasm.data.picturing import PictureCollator
from chiasm.encoders.codebook_transform import CodebookTransform
from tests.tiny import picture

TRANSFORM = CodebookTransform(cells=3, cell=5)


def sample(name: str, seed: int, target: bool = True) -> Sample:
    pair = Pair(picture(19, 23, seed + 1), target=picture(17, 29, seed + 2) if target else None)
    return Sample(name, (Turn("user", (0,)),), images=(picture(17, 29, seed),), pair=pair)


def test_all_pictures_of_each_sample_in_turn() -> None:
    plain = replace(sample("b", 7), pair=None)
    batch = PictureCollator(TRANSFORM)([sample("a", 0), plain, sample("c", 11, target=False)])
    pixels = batch.targets["pictures"]
    assert len(batch) == 3 and pixels.shape == (6, 3, 15, 15)
    assert batch.image_rows.tolist() == [0, 0, 0, 1, 2, 2]
    assert batch.supervised_tokens == 0
    for place, seed, size in ((0, 0, (17, 29)), (1, 1, (19, 23)), (2, 2, (17, 29))):
        assert torch.equal(pixels[place], TRANSFORM(picture(*size, seed)))
        assert batch.geometries[place] == TRANSFORM.geometry(size)


def test_some_pictures_of_each_sample() -> None:
    batch = PictureCollator(TRANSFORM, ("target",))([sample("a", 0)])
    assert torch.equal(batch.targets["pictures"][0], TRANSFORM(picture(17, 29, 2)))


def test_a_sample_without_them_is_named() -> None:
    with pytest.raises(DataError, match=r"a: .*none of the pictures asked for \(target\)"):
        PictureCollator(TRANSFORM, ("target",))([sample("a", 0, target=False)])
    with pytest.raises(DataError, match="an empty list of samples"):
        PictureCollator(TRANSFORM)([])
