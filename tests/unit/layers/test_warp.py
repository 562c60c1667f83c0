"""Affine warps against plain loops and slices."""

from __future__ import annotations

import pytest
import torch

from chiasm.core.errors import GeometryError
from chiasm.layers.warp import box_affine, warp

WHOLE = [0.0, 0.0, 1.0, 1.0]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def boxes(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows)


def still(count: int) -> torch.Tensor:
    return torch.eye(2, 3).repeat(count, 1, 1)


def test_boxes_land_on_boxes() -> None:
    source = boxes([0.1, 0.2, 0.5, 0.9], [0.3, 0.1, 0.4, 0.3])
    target = boxes([0.3, 0.0, 0.5, 0.7], [0.0, 0.0, 1.0, 1.0])
    affine = box_affine(source, target)
    assert affine.shape == (2, 2, 3)
    for corner in (slice(0, 2), slice(2, 4)):
        placed = torch.einsum("bij,bj->bi", affine[:, :, :2], source[:, corner]) + affine[:, :, 2]
        torch.testing.assert_close(placed, target[:, corner], rtol=0, atol=1e-6)


def test_equal_boxes_give_the_identity_exactly() -> None:
    box = boxes([0.1, 0.37, 0.73, 0.91], WHOLE, [1 / 3, 1 / 7, 2 / 3, 5 / 7])
    assert torch.equal(box_affine(box, box), still(3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [(7, 11), (1, 13), (31, 5)])
def test_the_identity_is_exact(dtype: torch.dtype, size: tuple[int, int]) -> None:
    maps = noise(3, 2, *size).to(dtype)
    moved, coverage = warp(maps, still(3))
    assert moved.dtype == dtype
    assert torch.equal(moved, maps)
    assert coverage.dtype == torch.bool and coverage.shape == (3, 1, *size)
    assert bool(coverage.all())


def test_each_row_has_its_own_map_and_a_known_shift_is_recovered() -> None:
    maps = noise(3, 2, 7, 11)
    affine = still(3)
    affine[1, :, 2] = torch.tensor([2 / 11, -1 / 7])
    affine[2, 0, 2] = -3 / 11
    moved, coverage = warp(maps, affine)
    expected, covered = torch.zeros_like(maps), torch.zeros(3, 1, 7, 11, dtype=torch.bool)
    expected[0], covered[0] = maps[0], True
    expected[1, :, :-1, 2:], covered[1, :, :-1, 2:] = maps[1, :, 1:, :-2], True
    expected[2, :, :, :-3], covered[2, :, :, :-3] = maps[2, :, :, 3:], True
    assert torch.equal(moved[0], maps[0])
    # Measured: 1.5e-6, from places in float32.
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-5)
    assert torch.equal(coverage, covered)


@pytest.mark.parametrize("size", [(7, 11), (28, 44), (5, 3)])
def test_one_map_means_one_movement_at_every_size(size: tuple[int, int]) -> None:
    """A linear ramp over the view stays a linear ramp of the place, whatever its pixels."""
    height, width = size
    x = (torch.arange(width) + 0.5) / width
    y = (torch.arange(height) + 0.5) / height
    maps = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])[None]
    source, target = boxes([0.2, 0.1, 0.8, 0.9]), boxes([0.1, 0.3, 0.7, 0.7])
    moved, coverage = warp(maps, box_affine(source, target))
    # The inverse by hand: x is shifted by -0.1; y goes from [0.3, 0.7] to [0.1, 0.9].
    wanted = torch.stack(
        [(x + 0.1).expand(height, width), ((y - 0.3) * 2 + 0.1)[:, None].expand(height, width)]
    )[None]
    whole = ((wanted >= 0) & (wanted <= 1)).all(dim=1, keepdim=True)
    assert torch.equal(coverage, whole)
    # Beyond the middles of the outer pixels a ramp is not known; they are left out.
    edge = torch.tensor([0.5 / width, 0.5 / height])[None, :, None, None]
    known = ((wanted >= edge) & (wanted <= 1 - edge)).all(dim=1, keepdim=True).expand_as(moved)
    assert int(known.sum()) > 4
    torch.testing.assert_close(moved[known], wanted[known], rtol=0, atol=1e-5)
    assert bool((moved[~coverage.expand_as(moved)] == 0).all())


@pytest.mark.parametrize("box", [[0.13, 0.21, 0.71, 0.83], [0.13, -0.41, 1.71, 0.83]])
def test_the_outer_half_pixel_does_not_fade(box: list[float]) -> None:
    """A map of ones stays one wherever it is, and is zero elsewhere."""
    moved, coverage = warp(torch.ones(1, 1, 29, 31), box_affine(boxes(WHOLE), boxes(box)))
    torch.testing.assert_close(moved, coverage.float(), rtol=0, atol=1e-5)
    left, top, right, bottom = (min(1.0, max(0.0, side)) for side in box)
    share = (right - left) * (bottom - top)
    assert share == pytest.approx(float(coverage.float().mean()), abs=0.05)


def test_a_turn_is_read_as_a_turn() -> None:
    """A quarter turn about the middle: x' = 1 - y, y' = x."""
    maps = noise(1, 3, 7, 7)
    affine = torch.tensor([[[0.0, -1.0, 1.0], [1.0, 0.0, 0.0]]])
    moved, coverage = warp(maps, affine)
    assert bool(coverage.all())
    torch.testing.assert_close(moved, maps.rot90(-1, (2, 3)), rtol=0, atol=1e-5)


def test_gradient_is_that_of_numbers() -> None:
    maps = noise(2, 1, 3, 5).double().requires_grad_()
    affine = box_affine(
        boxes(WHOLE, [0.1, 0.1, 0.6, 0.8]), boxes(WHOLE, [0.3, 0.2, 0.7, 0.9])
    ).double()
    assert torch.autograd.gradcheck(lambda values: warp(values, affine)[0], (maps,))
    moved, _ = warp(maps, affine)
    moved.sum().backward()
    assert maps.grad is not None
    assert torch.equal(maps.grad[0], torch.ones(1, 3, 5).double())


@pytest.mark.parametrize(
    ("box", "told"),
    [
        ([0.5, 0.1, 0.5, 0.9], r"source box \[0.5, .* of row 1 has no area"),
        ([0.6, 0.1, 0.5, 0.9], "has no area"),
        ([float("nan")] * 4, "has no area.*left < right"),
    ],
)
def test_a_box_without_area_is_refused(box: list[float], told: str) -> None:
    with pytest.raises(GeometryError, match=told):
        box_affine(boxes(WHOLE, box), boxes(WHOLE, WHOLE))
    with pytest.raises(GeometryError, match=r"target box .* of row 0"):
        box_affine(boxes(WHOLE), boxes(box))


def test_shapes_and_flat_maps_are_refused() -> None:
    with pytest.raises(GeometryError, match=r"shapes \(1, 4\) and \(2, 4\)"):
        box_affine(boxes(WHOLE), boxes(WHOLE, WHOLE))
    with pytest.raises(GeometryError, match=r"maps of shape \(2, 3, 5\)"):
        warp(noise(2, 3, 5), still(2))
    with pytest.raises(GeometryError, match=r"affine maps of shape \(3, 2, 3\)"):
        warp(noise(2, 1, 3, 5), still(3))
    flat = still(2)
    flat[1, 0, 0] = 0.0
    with pytest.raises(GeometryError, match="of row 1 is flat"):
        warp(noise(2, 1, 3, 5), flat)
