"""Where each family's cells lie, read off the pixels and the tokens that its real parts make."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from transformers import LlavaNextImageProcessor

from chiasm.core.errors import MediaError
from chiasm.core.grid import ImageGeometry
from chiasm.language.host import Host
from chiasm.language.hosts.any_resolution_images import AnyResolutionImages
from chiasm.language.hosts.protocol import CellGrid
from tests.tiny_hosts import ALL_HOSTS, build_tiny

DARK, BRIGHT = 90, 180
"""Far enough from black and white for the overshoot of bicubic interpolation."""
SIZES = [(60, 95), (97, 61), (70, 70), (41, 149), (149, 41), (36, 35), (23, 20), (213, 71)]
"""Height and width: odd, both ways round, square, one tile and many, and up to 1 : 4."""


def deaf(family: str) -> Host:
    """A host whose tower mixes no two patches: all that its layers add is zero.

    What comes out of a cell then depends on the pixels of that cell alone, so that a changed pixel
    tells which token it went into, through the real preprocessing, tower, shuffling and packing.
    """
    host = build_tiny(family)
    writers = ("out_proj", "fc2", "projection_layer", "proj", "down_proj", "o_proj", "linear_fc2")
    with torch.no_grad():
        for name, module in host.parts["vision"].named_modules():
            inside = any(f"{group}." in name for group in ("layers", "layer", "blocks"))
            if inside and isinstance(module, nn.Linear) and name.split(".")[-1] in writers:
                module.weight.zero_()
                if module.bias is not None:
                    module.bias.zero_()
    return host


@pytest.fixture(scope="module", params=sorted(set(ALL_HOSTS) - {"deepseek_vl_hybrid"}))
def host(request: pytest.FixtureRequest) -> Host:
    """All but the hybrid, whose second tower convolves; its tokens are told apart below."""
    return deaf(request.param)


def written(host: Host, image: Image.Image) -> tuple[Tensor, tuple[CellGrid, ...], ImageGeometry]:
    """The tokens of an image in the order of the text, and its grids."""
    prepared = host.preparer.prepare([image])
    with torch.no_grad():
        seen = host.encode(prepared.tensors, prepared.geometries)
    out = host.adapter.write(seen.tokens.rows(), seen.extras, 1)
    grids = host.adapter.grids(host.model.config, prepared.geometries[0], 1)
    assert len(out.features[0]) == prepared.token_counts[0]
    return out.features[0], grids, prepared.geometries[0]


def marked(height: int, width: int, box: tuple[int, int, int, int] | None = None) -> Image.Image:
    pixels = np.full((height, width, 3), DARK, dtype=np.uint8)
    if box is not None:
        left, top, right, bottom = box
        pixels[top:bottom, left:right] = BRIGHT
    return Image.fromarray(pixels)


def places(height: int, width: int) -> list[tuple[int, int]]:
    """Corners, edges and middle, and two odd places: (row, column) of a pixel."""
    return [
        (0, 0),
        (0, width - 1),
        (height - 1, 0),
        (height - 1, width - 1),
        (height // 2, width // 2),
        (height // 3, 2 * width // 3),
        (4 * height // 5, width // 7),
    ]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_bright_spot_changes_the_cells_that_the_geometry_names(
    host: Host, height: int, width: int
) -> None:
    plain, _, _ = written(host, marked(height, width))
    for row, column in places(height, width):
        box = (max(column - 1, 0), max(row - 1, 0), min(column + 2, width), min(row + 2, height))
        tokens, grids, _ = written(host, marked(height, width, box))
        moved = (tokens - plain).abs().amax(-1)
        for grid in grids:
            check_grid(grid, moved[grid.positions[:, 0]], box)


def check_grid(grid: CellGrid, moved: Tensor, box: tuple[int, int, int, int]) -> None:
    """The cells that moved are those under the spot, up to the reach of the interpolation."""
    geometry = grid.geometry
    left, top, right, bottom = geometry.view_box()
    boxes = geometry.cell_boxes()
    # Bicubic reaches two pixels, of the resized or the original picture, whichever are larger.
    reach_x, reach_y = (2 * max(1, 1 / scale) for scale in (geometry.scale_x, geometry.scale_y))
    near = (
        (boxes[:, 0] < box[2] + reach_x)
        & (boxes[:, 2] > box[0] - reach_x)
        & (boxes[:, 1] < box[3] + reach_y)
        & (boxes[:, 3] > box[1] - reach_y)
    )
    assert not moved[~near].any(), (geometry, box, moved.nonzero().flatten())
    middle = torch.tensor([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
    if left < middle[0] < right and top < middle[1] < bottom:
        column, row = geometry.to_cells(middle).floor().long().tolist()
        assert moved[row * geometry.columns + column] > 0, (geometry, box)


View = tuple[Tensor, ImageGeometry, tuple[int, int]]
"""Pixels float (3, H, W) that a tower reads, its grid, and cells (left, above) the model cuts."""


def tiles(pixels: Tensor, rows: int) -> Tensor:
    """Put tiles float (N, 3, S, S), row by row, side by side."""
    grid = pixels.unflatten(0, (rows, -1))
    return grid.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)


def views(host: Host, prepared: Any) -> list[View]:
    """What the tower reads of one image, in one piece, for each of its grids."""
    family, geometry = host.adapter.model_type, prepared.geometries[0]
    grids = [grid.geometry for grid in host.adapter.grids(host.model.config, geometry, 1)]
    pixels = prepared.tensors["pixel_values"]
    if family.startswith("qwen"):
        patch = host.image_processor.patch_size
        _, rows, columns = prepared.tensors["image_grid_thw"][0].tolist()
        flat = pixels.reshape(rows // 2, columns // 2, 2, 2, 3, 2, patch, patch)[:, :, :, :, :, 0]
        whole = flat.permute(4, 0, 2, 5, 1, 3, 6).reshape(3, rows * patch, columns * patch)
        return [(whole, geometry, (0, 0))]
    if family == "llava_next":
        canvas = tiles(pixels[0, 1:], tile_rows(len(pixels[0]) - 1, geometry))
        cut = (
            (canvas.shape[2] // 5 - geometry.columns) // 2,
            (canvas.shape[1] // 5 - geometry.rows) // 2,
        )
        return [(canvas, geometry, cut), (pixels[0, 0], grids[1], (0, 0))]
    if family == "internvl":
        fine = tiles(pixels[: geometry.count // 9], geometry.rows // 3)
        return [(fine, geometry, (0, 0)), (pixels[-1], grids[-1], (0, 0))]
    square = [(pixels[0], geometry, (0, 0))]
    if family == "deepseek_vl_hybrid":
        square.append((prepared.tensors["high_res_pixel_values"][0], geometry, (0, 0)))
    return square


def tile_rows(count: int, geometry: ImageGeometry) -> int:
    """Rows of tiles of the LLaVA-NeXT canvas that holds a grid; margins come in equal pairs."""
    fits = [
        rows
        for rows in range(1, count + 1)
        if count % rows == 0
        for margins in [(7 * rows - geometry.rows, 7 * count // rows - geometry.columns)]
        if min(margins) == 0 and margins[0] % 2 == margins[1] % 2 == 0
    ]
    assert len(fits) == 1, (count, geometry, fits)
    return fits[0]


PREPARED: dict[str, Host] = {}


def ready(family: str) -> Host:
    """One host a family for all examples; only its preprocessing is used."""
    if family not in PREPARED:
        PREPARED[family] = build_tiny(family)
    return PREPARED[family]


def check_spot(host: Host, height: int, width: int, row: float, column: float) -> None:
    """A spot of the picture, found in the pixels of each view, maps back to where it was."""
    geometry = host.preparer.prepare([marked(height, width)]).geometries[0]
    grids = [grid.geometry for grid in host.adapter.grids(host.model.config, geometry, 1)]
    # Large enough to be seen after shrinking, and as far from the edge as interpolation reaches.
    wide = max(3, round(3 / min(grid.scale_x for grid in grids)))
    high = max(3, round(3 / min(grid.scale_y for grid in grids)))
    if width < 4 * wide or height < 4 * high:
        return
    left = round(wide + column * (width - 3 * wide))
    top = round(high + row * (height - 3 * high))
    box = (left, top, left + wide, top + high)
    plain = views(host, host.preparer.prepare([marked(height, width)]))
    spotted = views(host, host.preparer.prepare([marked(height, width, box)]))
    for (before, grid, cut), (after, _, _) in zip(plain, spotted, strict=True):
        if not seen_whole(grid, box):
            continue
        change = (after - before).mean(0).double()
        # Its middle, dips of the interpolation included: they belong to the same spot.
        x = (change.sum(0) * (torch.arange(change.shape[1]) + 0.5)).sum() / change.sum()
        y = (change.sum(1) * (torch.arange(change.shape[0]) + 0.5)).sum() / change.sum()
        side_x = change.shape[1] / (grid.columns + 2 * cut[0])
        side_y = change.shape[0] / (grid.rows + 2 * cut[1])
        found = grid.to_pixels(torch.stack([x / side_x - cut[0], y / side_y - cut[1]]))
        truth = torch.tensor([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2], dtype=torch.float64)
        assert (found - truth).abs().max() < 0.5, (grid, box, found, truth)


def seen_whole(grid: ImageGeometry, box: tuple[int, int, int, int]) -> bool:
    """Whether a view shows all of a box, and its surroundings, rather than crop some away."""
    left, top, right, bottom = grid.view_box()
    x, y = 2 / grid.scale_x, 2 / grid.scale_y
    return box[0] - x > left and box[1] - y > top and box[2] + x < right and box[3] + y < bottom


@pytest.mark.parametrize("family", sorted(ALL_HOSTS))
@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(24, 400),
    width=st.integers(24, 400),
    row=st.floats(0, 1),
    column=st.floats(0, 1),
)
def test_a_spot_maps_back_to_within_half_a_pixel(
    family: str, height: int, width: int, row: float, column: float
) -> None:
    """Pixel to tower to cell to pixel, through the real image processor of every family."""
    check_spot(ready(family), height, width, row, column)


@pytest.mark.parametrize("family", sorted(ALL_HOSTS))
@settings(max_examples=40, deadline=None)
@given(height=st.integers(9, 700), width=st.integers(9, 700), data=st.data())
def test_cells_tile_the_view_and_the_round_trip_is_exact(
    family: str, height: int, width: int, data: st.DataObject
) -> None:
    """All grids, at any proportions up to 1 : 77; a refusal names the size."""
    host = ready(family)
    try:
        geometry = host.preparer.prepare([Image.new("RGB", (width, height))]).geometries[0]
    except MediaError as error:
        assert f"{width} x {height}" in str(error)
        assert family.startswith("qwen")
        assert max(width, height) > 7 * min(width, height)
        return
    for grid in host.adapter.grids(host.model.config, geometry, 1):
        boxes = grid.geometry.cell_boxes().unflatten(0, (grid.geometry.rows, grid.geometry.columns))
        torch.testing.assert_close(boxes[:, :-1, 2], boxes[:, 1:, 0], atol=1e-2, rtol=0)
        torch.testing.assert_close(boxes[:-1, :, 3], boxes[1:, :, 1], atol=1e-2, rtol=0)
        left, top, right, bottom = grid.geometry.view_box()
        point = torch.tensor([data.draw(st.floats(left, right)), data.draw(st.floats(top, bottom))])
        back = grid.geometry.to_pixels(grid.geometry.to_cells(point))
        assert (back - point).abs().max() < 0.5


def test_an_image_that_llava_next_would_lose_is_refused() -> None:
    """With an even grid the library's un-padding leaves no row of it; nothing would be said."""
    pinpoints = [[30, 60], [60, 30], [60, 60], [90, 30], [30, 90]]
    processor = LlavaNextImageProcessor(
        size={"shortest_edge": 30},
        crop_size={"height": 30, "width": 30},
        image_grid_pinpoints=pinpoints,
    )
    preparer = AnyResolutionImages(processor, side=30, patch=5)
    assert preparer.prepare([Image.new("RGB", (300, 20))]).geometries[0].rows == 2
    with pytest.raises(
        MediaError, match=r"900 x 20 pixels is less than half a cell.*18 x 6 cells.*crop it"
    ):
        preparer.prepare([Image.new("RGB", (900, 20))])
