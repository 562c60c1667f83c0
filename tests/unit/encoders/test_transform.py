"""Preprocessing on the host's grid: the same piece of image in the same cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from chiasm.core.grid import ImageGeometry
from chiasm.encoders.transform import GridTransform
from tests.tiny_eyes import stretched

PLAIN = GridTransform(
    patch=7, oversample=1, mean=(0.5, 0.25, 0.75), deviation=(0.5, 1.0, 2.0), resampling="bicubic"
)


def cells_in_colours(height: int, width: int, boxes: np.ndarray) -> Image.Image:
    """An image whose pixel tells the index of the box that it lies in, red channel; 255 outside."""
    pixels = np.full((height, width, 3), 255, dtype=np.uint8)
    for index, (left, top, right, bottom) in enumerate(boxes.round().astype(int)):
        pixels[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0), 0] = index * 5
    return Image.fromarray(pixels)


def centres(prepared: torch.Tensor, transform: GridTransform) -> np.ndarray:
    """The red value, 0 to 255, in the middle of each cell of a prepared image."""
    side = transform.patch * transform.oversample
    red = (prepared[0] * transform.deviation[0] + transform.mean[0]) * 255
    return red[side // 2 :: side, side // 2 :: side].round().flatten().numpy()


@pytest.mark.parametrize("oversample", [1, 2, 3])
def test_size_is_patches_times_cells(oversample: int) -> None:
    transform = GridTransform(7, oversample, PLAIN.mean, PLAIN.deviation, "bilinear")
    prepared = transform(Image.new("RGB", (83, 61)), stretched(61, 83, 3, 5))
    assert prepared.shape == (3, 3 * 7 * oversample, 5 * 7 * oversample)
    assert prepared.dtype == torch.float32


def test_normalises_each_channel() -> None:
    prepared = PLAIN(Image.new("RGB", (41, 37), (255, 51, 0)), stretched(37, 41, 2, 3))
    expected = torch.tensor([(1 - 0.5) / 0.5, (0.2 - 0.25) / 1.0, (0 - 0.75) / 2.0])
    torch.testing.assert_close(prepared, expected[:, None, None].expand_as(prepared))


def test_grey_and_transparent_images_are_read_as_rgb() -> None:
    geometry = stretched(37, 41, 2, 3)
    for mode in ("L", "RGBA", "P"):
        assert PLAIN(Image.new(mode, (41, 37)), geometry).shape == (3, 14, 21)


GEOMETRIES = {
    "stretched": stretched(60, 84, 5, 7),
    # A host that resizes the short side and cuts the middle out of the long one.
    "cropped": ImageGeometry(60, 84, 1.0, 1.0, -12.0, 0.0, 12.0, 12.0, 5, 5),
    # A host that pads to a square.
    "padded": ImageGeometry(60, 84, 1.0, 1.0, 0.0, 12.0, 12.0, 12.0, 7, 7),
    # A cut that falls between pixels.
    "cropped between pixels": ImageGeometry(60, 84, 0.5, 0.5, -5.25, -0.75, 7.0, 7.0, 4, 4),
}


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("oversample", [1, 2])
def test_each_cell_shows_what_the_host_sees_there(name: str, oversample: int) -> None:
    geometry = GEOMETRIES[name]
    boxes = geometry.cell_boxes().numpy()
    image = cells_in_colours(60, 84, boxes)
    transform = GridTransform(7, oversample, PLAIN.mean, PLAIN.deviation, "bilinear")
    found = centres(transform(image, geometry), transform)
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = (middles > 0).all(1) & (middles < (84, 60)).all(1)
    assert inside.sum() >= 16
    np.testing.assert_allclose(found[inside], (np.arange(len(boxes)) * 5)[inside], atol=1)


def test_padding_of_the_host_becomes_the_mean_colour() -> None:
    geometry = GEOMETRIES["padded"]
    prepared = PLAIN(Image.new("RGB", (84, 60), (255, 255, 255)), geometry)
    top, middle = prepared[:, 0], prepared[:, 25]
    # Within half a level of 255, as colours of pixels are whole numbers.
    assert (top.abs() * torch.tensor(PLAIN.deviation)[:, None]).max() < 0.5 / 255 + 1e-6
    assert (middle.abs() > 0.1).all()


def test_rounding_of_the_scale_asks_for_no_border() -> None:
    # 3 * 13 / 83 has no exact binary form, so the view ends a hair beyond the image.
    for width in range(40, 140):
        geometry = stretched(61, width, 3, 5)
        prepared = PLAIN(Image.new("RGB", (width, 61), (255, 255, 255)), geometry)
        torch.testing.assert_close(prepared[0], torch.ones_like(prepared[0]))


def test_shrinking_does_not_alias() -> None:
    stripes = np.zeros((140, 140, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    prepared = PLAIN(Image.fromarray(stripes), stretched(140, 140, 2, 2))
    red = prepared[0] * 0.5 + 0.5
    # Without a widened filter, single columns would be picked: values near 0 and 1.
    assert (red[:, 1:-1] - 0.5).abs().max() < 0.03
