"""Dense maps between frames: exact places, exact identity, what lies outside."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from chiasm.core.errors import GeometryError
from chiasm.core.grid import ImageGeometry
from chiasm.core.sampling import image_size, image_to_view, resample_cells, view_to_image

SIDES = st.integers(23, 211)


@st.composite
def geometries(draw: st.DrawFn) -> ImageGeometry:
    """Stretched, padded (on any side) and cropped views with cells of any side."""
    height, width = draw(SIDES), draw(SIDES)
    rows, columns = draw(st.integers(3, 17)), draw(st.integers(3, 17))
    cell = draw(st.sampled_from((7, 14, 16)))
    scale_x, scale_y = columns * cell / width, rows * cell / height
    kind = draw(st.sampled_from(("stretch", "pad", "crop")))
    offset_x = offset_y = 0.0
    if kind == "pad":
        scale_x = scale_y = min(scale_x, scale_y)
        share = draw(st.sampled_from((0.0, 0.5, 1.0)))
        offset_x = share * (columns * cell - width * scale_x)
        offset_y = share * (rows * cell - height * scale_y)
    elif kind == "crop":
        scale_x = scale_y = max(scale_x, scale_y)
        offset_x = (columns * cell - width * scale_x) / 2
        offset_y = (rows * cell - height * scale_y) / 2
    return ImageGeometry(
        original_height=height,
        original_width=width,
        scale_x=scale_x,
        scale_y=scale_y,
        offset_x=offset_x,
        offset_y=offset_y,
        cell_height=cell,
        cell_width=cell,
        rows=rows,
        columns=columns,
    )


def middles(low: float, high: float, count: int) -> Tensor:
    return low + (torch.arange(count, dtype=torch.float64) + 0.5) / count * (high - low)


def places(box: tuple[float, float, float, float], height: int, width: int) -> Tensor:
    """X and Y in original pixels of the middles of height x width boxes: float64 (2, h, w)."""
    y, x = torch.meshgrid(
        middles(box[1], box[3], height), middles(box[0], box[2], width), indexing="ij"
    )
    return torch.stack([x, y])


@settings(max_examples=60, deadline=None)
@given(geometry=geometries(), factor=st.integers(1, 3))
def test_logits_lie_on_the_image_where_the_view_had_them(
    geometry: ImageGeometry, factor: int
) -> None:
    """A map that holds its own original pixels holds, carried over, those of the image's pixels."""
    height, width = geometry.rows * factor, geometry.columns * factor
    view = geometry.view_box()
    logits = places(view, height, width)
    size = (geometry.original_height, geometry.original_width)
    found = view_to_image(logits, geometry, size)
    wanted = places((0, 0, size[1], size[0]), *size)
    # Beyond the middle of the outermost value there is nothing to interpolate with.
    half_x = (view[2] - view[0]) / width / 2
    half_y = (view[3] - view[1]) / height / 2
    inner = (wanted[0] >= view[0] + half_x) & (wanted[0] <= view[2] - half_x)
    inner &= (wanted[1] >= view[1] + half_y) & (wanted[1] <= view[3] - half_y)
    assume(bool(inner.any()))  # a view of a few values may have no place between two of them
    # Measured at most 2e-7 pixels; the bound asked for is 0.5.
    assert (found - wanted)[:, inner].abs().max() < 1e-5


@settings(max_examples=60, deadline=None)
@given(geometry=geometries())
def test_truth_comes_back_within_half_a_pixel(geometry: ImageGeometry) -> None:
    """Nearest there and back, at a density at least the image's: no pixel comes from afar."""
    size = (geometry.original_height, geometry.original_width)
    view = geometry.view_box()
    dense = (int(view[3] - view[1]) + 1, int(view[2] - view[0]) + 1)
    own = places((0, 0, size[1], size[0]), *size)
    there = image_to_view(own.floor().long(), geometry, dense, outside=-9)
    back = view_to_image(there.double(), geometry, size)
    shown = (own[0] >= view[0] + 1) & (own[0] <= view[2] - 1)
    shown &= (own[1] >= view[1] + 1) & (own[1] <= view[3] - 1)
    shown &= (own[0] >= 1) & (own[0] <= size[1] - 1) & (own[1] >= 1) & (own[1] <= size[0] - 1)
    assert ((back + 0.5 - own)[:, shown].abs() <= 0.5 + 1e-6).all()


@settings(max_examples=40, deadline=None)
@given(geometry=geometries(), seed=st.integers(0, 1000))
def test_a_grid_on_itself_and_a_stretch_of_equal_size_are_exact(
    geometry: ImageGeometry, seed: int
) -> None:
    cells = (geometry.rows, geometry.columns)
    values = torch.randn(2, *cells, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(resample_cells(values, geometry, geometry), values)
    stretch = ImageGeometry.from_resize(
        (geometry.original_height, geometry.original_width),
        (geometry.rows * 7, geometry.columns * 7),
        (7, 7),
    )
    assert torch.equal(view_to_image(values, stretch), values)
    assert torch.equal(image_to_view(values, stretch, cells), values)


def test_a_whole_number_of_padding_cells_is_cut_off_exactly() -> None:
    """An image of 30 x 50 in a view of 50 x 50: ten rows above, ten below, at one value a pixel."""
    geometry = ImageGeometry(30, 50, 1.0, 1.0, 0.0, 10.0, 10.0, 10.0, 5, 5)
    logits = torch.randn(3, 50, 50)
    assert image_size((50, 50), geometry) == (30, 50)
    assert torch.equal(view_to_image(logits, geometry), logits[:, 10:40])
    padded = image_to_view(logits[:, 10:40], geometry, (50, 50), outside=-7.0)
    assert torch.equal(padded[:, 10:40], logits[:, 10:40])
    assert (padded[:, :10] == -7).all()
    assert (padded[:, 40:] == -7).all()


def test_what_a_crop_hides_is_no_part_of_the_mask() -> None:
    """A view of the middle 30 x 30 of 30 x 50: ten columns at each side are unknown."""
    geometry = ImageGeometry(30, 50, 1.0, 1.0, -10.0, 0.0, 10.0, 10.0, 3, 3)
    logits = torch.rand(2, 30, 30) + 1
    logits[1] -= 9
    image = view_to_image(logits, geometry, (30, 50))
    assert torch.equal(image[:, :, 10:40], logits)
    # min(-1, smallest): -1 for a map of positive logits, the smallest for the other.
    assert (image[0, :, :10] == -1).all()
    assert (image[1, :, 40:] == logits[1].min()).all()


def test_gradients_flow_through_what_the_image_shows() -> None:
    geometry = ImageGeometry(30, 50, 1.0, 1.0, 0.0, 10.0, 10.0, 10.0, 5, 5)
    logits = torch.randn(1, 5, 5, requires_grad=True)
    view_to_image(logits, geometry, (30, 50)).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 1:4].min() > 0
    # A value's reach ends at the middles of its neighbours: rows 0 and 4 touch the image's edge.
    assert logits.grad[0, 0].max() < logits.grad[0, 1].min()


def test_a_coarse_grid_of_the_whole_image_on_the_cells_of_a_crop() -> None:
    """A ramp over the whole image, read at the cells of the view of its middle."""
    whole = ImageGeometry.from_resize((30, 50), (30, 50), (10, 10))
    crop = ImageGeometry(30, 50, 2.0, 2.0, -20.0, 0.0, 10.0, 10.0, 6, 6)
    ramp = places(whole.view_box(), 3, 5)
    found = resample_cells(ramp, whole, crop)
    wanted = places(crop.view_box(), 6, 6)
    torch.testing.assert_close(found[0], wanted[0])
    torch.testing.assert_close(found[1, 1:5], wanted[1, 1:5])
    # And the other way: cells that the crop does not show are 0.
    back = resample_cells(torch.ones(1, 6, 6), crop, whole)
    assert torch.equal(back[0, 0], torch.tensor([0.0, 1, 1, 1, 0]))


@pytest.mark.parametrize("dtype", [torch.bool, torch.long])
def test_truth_is_read_at_the_nearest_pixel_and_keeps_its_type(dtype: torch.dtype) -> None:
    geometry = ImageGeometry.from_resize((4, 6), (2, 3), (1, 1))
    truth = torch.zeros(1, 4, 6).to(dtype)
    truth[0, 2:, 4:] = 1
    found = image_to_view(truth, geometry, (2, 3))
    assert found.dtype == dtype
    assert found.long().tolist() == [[[0, 0, 0], [0, 0, 1]]]


def test_faults_name_what_was_given() -> None:
    geometry = ImageGeometry.from_resize((30, 50), (30, 50), (10, 10))
    other = ImageGeometry.from_resize((31, 50), (30, 50), (10, 10))
    with pytest.raises(GeometryError, match=r"logits of shape \(3, 5\); give three axes"):
        view_to_image(torch.zeros(3, 5), geometry)
    with pytest.raises(GeometryError, match=r"shape \(7, 5, 3\) for a grid of 3 x 5 cells"):
        resample_cells(torch.zeros(7, 5, 3), geometry, geometry)
    with pytest.raises(GeometryError, match=r"images of \(30, 50\) and \(31, 50\) pixels"):
        resample_cells(torch.zeros(7, 3, 5), geometry, other)
