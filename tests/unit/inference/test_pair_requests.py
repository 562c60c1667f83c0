"""What a caller may give as the mask of what is hidden: one mask, one array, however it comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chiasm.core.errors import DataError, InputError
from chiasm.inference.pair_requests import PairRequest
from tests.unit.inference.pair_models import IMAGE, hidden, rendered


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
    return image


def test_pictures_of_masks(tmp_path: Path) -> None:
    """Every value but 0 is hidden, by path and as picture alike."""
    pixels = hidden()
    values = (1, 127, 255)
    pictures = [Image.fromarray(pixels.astype(np.uint8) * value) for value in values]
    pictures += [pictures[-1].convert(mode) for mode in ("1", "P", "I;16", "RGB")]
    given: list[Any] = [pixels]
    for index, one in enumerate(pictures):
        path = tmp_path / f"{index}.PNG"
        one.save(path)
        given += [one, path, str(path), opened(path)]
    for mask in given:
        sample = PairRequest(IMAGE, rendered(), "What?", mask).sample()
        assert sample.pair is not None and sample.pair.hidden is not None
        assert np.array_equal(sample.pair.hidden.read(), pixels)


def test_pictures_that_are_no_masks(tmp_path: Path) -> None:
    white = Image.fromarray(hidden().astype(np.uint8) * 255)
    for suffix in ("bmp", "jpg"):
        white.save(tmp_path / f"white.{suffix}")
    faults: list[tuple[Any, type[Exception], str]] = [
        (tmp_path / "white.jpg", DataError, "a mask of format JPEG, .* allowed: PNG"),
        (tmp_path / "white.bmp", DataError, "a mask of format BMP, .* allowed: PNG"),
        (opened(tmp_path / "white.jpg"), DataError, "mask: a mask of format JPEG"),
        (white.convert("LA"), DataError, "mask: a picture of mode LA; .* without transparency"),
        (white.convert("F"), DataError, "mask: a picture of mode F; allowed: one channel"),
        (IMAGE, DataError, "mask: a picture of mode RGB with colours is no mask"),
        (3, InputError, "mask is of type int; allowed: the path of a PNG, a PIL image"),
    ]
    for mask, kind, message in faults:
        with pytest.raises(kind, match=message):
            PairRequest(IMAGE, rendered(), "What?", mask).sample()
    # What was read of a lossless file is known in its values.
    sample = PairRequest(IMAGE, rendered(), "?", opened(tmp_path / "white.bmp")).sample()
    assert sample.pair is not None and sample.pair.hidden is not None
    assert np.array_equal(sample.pair.hidden.read(), hidden())
