"""Images, counts and text against the library's own processors, and geometry against the pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import (
    LlavaProcessor,
    Qwen2_5_VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
)

from chiasm.core.grid import ImageGeometry
from chiasm.language.host import Host
from tests.tiny import TINY_HOSTS, picture, tiny_batch, tiny_llava, tiny_qwen2_5_vl


def processor(host: Host) -> Any:
    pieces = {"image_processor": host.image_processor, "tokenizer": host.tokenizer}
    if host.adapter.model_type == "llava":
        return LlavaProcessor(
            **pieces,
            patch_size=5,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=host.tokenizer.chat_template,
        )
    kind = {"qwen2_5_vl": Qwen2_5_VLProcessor, "qwen3_vl": Qwen3VLProcessor}[
        host.adapter.model_type
    ]
    return kind(
        **pieces,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=host.tokenizer.chat_template,
    )


@pytest.mark.parametrize("family", sorted(TINY_HOSTS))
def test_text_and_pixels_equal_the_librarys_processor(family: str) -> None:
    host = TINY_HOSTS[family]()
    images = [picture(41, 59, seed=1), picture(30, 97, seed=2), picture(83, 31, seed=3)]
    rows = [["What is this? ", images[0]], [images[1], "and", images[2], "differ how?"]]
    messages = [
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": part}
                    if isinstance(part, str)
                    else {"type": "image", "image": part}
                    for part in row
                ],
            }
        ]
        for row in rows
    ]
    theirs = processor(host).apply_chat_template(
        messages,
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "right"},
    )
    ours = tiny_batch(host, rows)
    assert torch.equal(ours.input_ids, theirs["input_ids"])
    assert torch.equal(ours.attention_mask, theirs["attention_mask"])
    for name, tensor in ours.host_images.items():
        assert torch.equal(tensor, theirs[name]), name
    if family != "llava":
        assert torch.equal(ours.token_types, theirs["mm_token_type_ids"].long())
    prepared = host.preparer.prepare(images)
    assert [geometry.count for geometry in prepared.geometries] == list(prepared.token_counts)


@pytest.mark.parametrize("family", sorted(TINY_HOSTS))
def test_no_images_give_nothing(family: str) -> None:
    prepared = TINY_HOSTS[family]().preparer.prepare([])
    assert (dict(prepared.tensors), prepared.geometries, prepared.token_counts) == ({}, (), ())


def ramp(height: int, width: int) -> Image.Image:
    """Red grows along X and green along Y, from 20 to 235, so that a pixel tells its place."""
    x = np.broadcast_to((np.arange(width) + 0.5) / width, (height, width))
    y = np.broadcast_to(((np.arange(height) + 0.5) / height)[:, None], (height, width))
    values = np.stack([20 + 215 * x, 20 + 215 * y, np.full((height, width), 128.0)], axis=-1)
    return Image.fromarray(values.round().astype(np.uint8))


def place_of(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Read the places, XY in original pixels, off normalised pixels float (3, rows, columns)."""
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    red, green, _ = (pixels * std + mean) * 255
    return torch.stack([(red - 20) / 215 * width, (green - 20) / 215 * height], dim=-1)


def qwen_pixels(prepared: Any, patch: int) -> torch.Tensor:
    """Put the patches of one image back into float (3, height, width)."""
    _, rows, columns = prepared.tensors["image_grid_thw"][0].tolist()
    flat = prepared.tensors["pixel_values"].reshape(
        rows // 2, columns // 2, 2, 2, 3, 2, patch, patch
    )[:, :, :, :, :, 0]
    return flat.permute(4, 0, 2, 5, 1, 3, 6).reshape(3, rows * patch, columns * patch)


def check_against_pixels(pixels: torch.Tensor, geometry: ImageGeometry, tolerance: float) -> None:
    """Each cell's box must be where the pixels of the cell say that they come from."""
    places = place_of(pixels, geometry.original_height, geometry.original_width)
    side_y, side_x = int(geometry.cell_height), int(geometry.cell_width)
    seen = places[: geometry.rows * side_y, : geometry.columns * side_x]
    # Means over a cell; the outermost cells are left out, where interpolation repeats the edge.
    means = seen.unflatten(0, (geometry.rows, side_y)).unflatten(2, (geometry.columns, side_x))
    means = means.mean(dim=(1, 3))
    boxes = geometry.cell_boxes().unflatten(0, (geometry.rows, geometry.columns))
    middles = (boxes[..., :2] + boxes[..., 2:]) / 2
    inner = (slice(1, -1), slice(1, -1))
    assert (means[inner] - middles[inner]).abs().max() < tolerance


@pytest.mark.parametrize(("height", "width"), [(60, 95), (97, 61), (70, 70), (41, 149)])
def test_qwen_geometry_is_where_the_pixels_came_from(height: int, width: int) -> None:
    host = tiny_qwen2_5_vl()
    prepared = host.preparer.prepare([ramp(height, width)])
    # Eight bits over the width: a step of 0.5 in 215 is a third of a pixel at most.
    check_against_pixels(qwen_pixels(prepared, 7), prepared.geometries[0], tolerance=0.5)


@pytest.mark.parametrize(("height", "width"), [(60, 95), (97, 61), (70, 70), (41, 149), (36, 35)])
def test_llava_geometry_is_where_the_pixels_came_from(height: int, width: int) -> None:
    host = tiny_llava()
    prepared = host.preparer.prepare([ramp(height, width)])
    geometry = prepared.geometries[0]
    check_against_pixels(prepared.tensors["pixel_values"][0], geometry, tolerance=0.5)
    left, top, right, bottom = geometry.view_box()
    # A centre crop sees the whole shorter side and the middle of the longer one.
    assert right - left == pytest.approx(bottom - top, rel=0.05)
    if width > height:
        assert (top, bottom) == pytest.approx((0, height))
        assert left > 0
        assert left == pytest.approx(width - right, abs=height / 35)


PREPARERS = {family: build().preparer for family, build in TINY_HOSTS.items()}


@pytest.mark.parametrize("family", sorted(TINY_HOSTS))
@settings(max_examples=30, deadline=None)
@given(height=st.integers(9, 300), width=st.integers(9, 300), data=st.data())
def test_cells_tile_what_is_seen_and_the_round_trip_is_exact(
    family: str, height: int, width: int, data: st.DataObject
) -> None:
    blank = Image.new("RGB", (width, height))
    geometry = PREPARERS[family].prepare([blank]).geometries[0]
    boxes = geometry.cell_boxes().double()
    left, top, right, bottom = geometry.view_box()
    area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum()
    assert float(area) == pytest.approx((right - left) * (bottom - top), rel=1e-4)
    grid = boxes.unflatten(0, (geometry.rows, geometry.columns))
    torch.testing.assert_close(grid[:, :-1, 2], grid[:, 1:, 0], atol=1e-3, rtol=0)
    torch.testing.assert_close(grid[:-1, :, 3], grid[1:, :, 1], atol=1e-3, rtol=0)
    # Inside the image, up to the pixel that the library rounds a margin by.
    slack = max(1 / geometry.scale_x, 1 / geometry.scale_y)
    assert left > -slack and top > -slack
    assert right < width + slack and bottom < height + slack
    if family != "llava":
        assert (left, top, right, bottom) == pytest.approx((0, 0, width, height))
    x = data.draw(st.floats(left, right))
    y = data.draw(st.floats(top, bottom))
    point = torch.tensor([x, y])
    back = geometry.to_pixels(geometry.to_cells(point))
    assert (back - point).abs().max() < 0.5
