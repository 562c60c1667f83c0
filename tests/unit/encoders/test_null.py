"""The null eye: the same parameters and compute, another image's view."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.grid import ImageGeometry
from chiasm.encoders.null import NullEye
from tests.tiny import picture
from tests.tiny_eyes import stretched, tiny_encoder

SMALL, LARGE = stretched(40, 50, 2, 3), stretched(60, 50, 5, 3)


def shown(eye: Any, *views: tuple[int, ImageGeometry]) -> tuple[list[Tensor], list[ImageGeometry]]:
    """Images by seed and geometry, as the eye reads them."""
    images = [
        eye.transform(picture(g.original_height, g.original_width, seed), g) for seed, g in views
    ]
    return images, [geometry for _, geometry in views]


def rows(eye: Any, *views: tuple[int, ImageGeometry]) -> list[Tensor]:
    with torch.no_grad():
        return eye.encode(*shown(eye, *views)).rows()


def test_images_of_a_size_go_round_in_a_circle() -> None:
    plain = tiny_encoder("dinov2")
    views = [(0, SMALL), (1, LARGE), (2, SMALL), (3, SMALL), (4, LARGE)]
    seen = rows(plain, *views)
    blind = rows(NullEye(plain), *views)
    for index, giver in enumerate([2, 4, 3, 0, 1]):
        assert torch.allclose(blind[index], seen[giver], atol=1e-6), index
        assert not torch.allclose(blind[index], seen[index], atol=1e-2), index


def test_what_is_given_is_what_was_there() -> None:
    """No view is lost or doubled: over a batch the statistics of the features stay."""
    plain = tiny_encoder("dinov2")
    views = [(seed, SMALL) for seed in range(5)]
    seen, blind = rows(plain, *views), rows(NullEye(plain), *views)
    order = [int(torch.stack([(b - s).abs().max() for s in seen]).argmin()) for b in blind]
    assert sorted(order) == [0, 1, 2, 3, 4]


def test_an_image_alone_with_its_size_gets_the_next_one_stretched() -> None:
    plain = tiny_encoder("dinov2")
    eye = NullEye(plain)
    views = [(0, SMALL), (1, LARGE), (2, SMALL)]
    images, _ = shown(plain, *views)
    stretch = torch.nn.functional.interpolate
    expected = stretch(images[2][None], size=images[1].shape[1:], mode="bilinear", antialias=True)
    with torch.no_grad():
        wanted = plain.encode([expected[0]], [LARGE]).rows()[0]
    assert torch.allclose(rows(eye, *views)[1], wanted, atol=1e-6)


def test_the_only_image_is_an_even_field_whatever_was_seen_before() -> None:
    plain = tiny_encoder("dinov2")
    eye = NullEye(plain)
    first = rows(eye, (0, SMALL))[0]
    rows(eye, (1, SMALL), (2, SMALL))
    assert torch.equal(rows(eye, (3, SMALL))[0], first)
    (image,), geometries = shown(plain, (0, SMALL))
    with torch.no_grad():
        assert torch.equal(plain.encode([torch.zeros_like(image)], geometries).rows()[0], first)


def test_the_same_picture_twice_is_no_other_view() -> None:
    plain = tiny_encoder("dinov2")
    views = [(0, SMALL), (0, SMALL), (0, SMALL), (1, SMALL), (1, SMALL)]
    seen, blind = rows(plain, *views), rows(NullEye(plain), *views)
    for index, giver in enumerate([3, 3, 3, 0, 0]):
        assert torch.allclose(blind[index], seen[giver], atol=1e-6), index
    lonely = rows(NullEye(plain), (0, SMALL), (0, SMALL))
    assert not any(torch.allclose(row, seen[0], atol=1e-2) for row in lonely)


def test_gradients_reach_the_image_that_was_shown() -> None:
    eye = NullEye(tiny_encoder("dinov2"))
    images, geometries = shown(eye, (0, SMALL), (1, LARGE), (2, SMALL))
    images = [image.requires_grad_(True) for image in images]
    eye.encode(images, geometries).rows()[0].sum().backward()
    assert [image.grad is not None and bool(image.grad.any()) for image in images] == [
        False,
        False,
        True,
    ]


def test_it_says_what_it_is() -> None:
    plain = tiny_encoder("dinov2")
    eye = NullEye(plain)
    assert (eye.width, eye.transform, eye.pretrained) == (
        plain.width,
        plain.transform,
        plain.pretrained,
    )
    assert eye.identity == {**plain.identity, "control": "null_eye"}
    assert eye.description == f"null eye of {plain.description}"
    own = [(name, p.shape) for name, p in plain.named_parameters()]
    assert [(n.removeprefix("encoder."), p.shape) for n, p in eye.named_parameters()] == own


def test_only_modules_can_be_blinded() -> None:
    class Bare:
        pass

    with pytest.raises(InputError, match=r"needs an encoder that is an nn.Module, not Bare"):
        NullEye(Bare())  # type: ignore[arg-type]
