"""Sources of masks: each gives the pixels it stands for, or names what is wrong."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from chiasm.core.errors import DataError, MediaError
from chiasm.core.run_length import decode_run_length, encode_run_length
from chiasm.core.samples import MaskSource
from chiasm.data.masks import (
    ArrayMask,
    PanopticMask,
    PngMask,
    PolygonMask,
    RunLengthMask,
    UnionMask,
    read_mask,
    read_segmentation,
)
from tests.archives import unpack

HEIGHT, WIDTH = 11, 17


def labels(seed: int = 0, most: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, most, (HEIGHT, WIDTH), dtype=np.uint8)


def panoptic(path: Path, ids: list[int], seed: int = 0) -> np.ndarray:
    """Write a panoptic PNG of these segments; return the id of each pixel."""
    segments = np.array([0, *ids])[labels(seed, 1 + len(ids))]
    colours = np.stack([segments % 256, segments // 256 % 256, segments // 65536], -1)
    Image.fromarray(colours.astype(np.uint8)).save(path)
    return segments


def test_panoptic_segments_are_a_union_of_ids(tmp_path: Path) -> None:
    ids = [7, 255, 256, 8345037, 16777215]
    segments = panoptic(tmp_path / "a.png", ids)
    for chosen in ((8345037,), (7, 16777215), (255, 256)):
        mask = PanopticMask(tmp_path / "a.png", chosen).read()
        assert mask.dtype == np.bool_ and mask.any()
        assert np.array_equal(mask, np.isin(segments, chosen))
    with pytest.raises(
        DataError, match=r"a\.png: no pixel of segment 8, 9; it has the segments \[7, 255, 256, 8"
    ):
        PanopticMask(tmp_path / "a.png", (9, 7, 8)).read()
    Image.fromarray(labels()).save(tmp_path / "grey.png")
    with pytest.raises(DataError, match=r"grey\.png: a PNG of one channel; a panoptic PNG is RGB"):
        PanopticMask(tmp_path / "grey.png", (1,)).read()


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    first = panoptic(path, [3, 5], seed=0)
    assert np.array_equal(PanopticMask(path, (3,)).read(), first == 3)
    second = panoptic(path, [3, 5], seed=1)
    assert np.array_equal(PanopticMask(path, (3,)).read(), second == 3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "RGB"])
def test_png_values_are_labels(tmp_path: Path, mode: str) -> None:
    values = labels(most=2 if mode == "1" else 5)
    if mode == "RGB":
        image = Image.fromarray(np.repeat(values[..., None], 3, -1))
    elif mode == "I;16":
        image = Image.fromarray(values.astype(np.uint16) * 300)
    elif mode == "1":
        image = Image.fromarray(values.astype(bool))
    else:
        image = Image.fromarray(values)
        if mode == "P":
            image.putpalette([0, 0, 0] * 256)  # colours say nothing: all are black
    assert image.mode == mode
    image.save(tmp_path / "a.png")
    assert np.array_equal(PngMask(tmp_path / "a.png").read(), values != 0)
    scale = 300 if mode == "I;16" else 1
    chosen = PngMask(tmp_path / "a.png", (1 * scale, 3 * scale)).read()
    assert np.array_equal(chosen, np.isin(values, (1, 3)))


def test_files_that_keep_no_labels_are_refused(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "colours.png")
    Image.fromarray(labels()).save(tmp_path / "lossy.jpg")
    Image.fromarray(colours).convert("RGBA").save(tmp_path / "alpha.png")
    faults = {
        "colours.png": (DataError, r"a PNG of mode RGB with colours is no mask; save one channel"),
        "lossy.jpg": (DataError, r"a mask of format JPEG, .* allowed: PNG"),
        "alpha.png": (DataError, r"a PNG of mode RGBA; allowed: one channel \(1, L, P, I;16\)"),
        "missing.png": (MediaError, r"missing\.png: does not exist"),
        "empty.png": (MediaError, r"empty\.png: is empty \(0 bytes\)"),
        "text.png": (MediaError, r"text\.png: is not an image of a known format"),
    }
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_bytes(b"no image at all")
    for name, (kind, words) in faults.items():
        with pytest.raises(kind, match=words):
            PngMask(tmp_path / name).read()


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9, -1, -4, -5, -12, -15, -20])
def test_a_truncated_png_is_named(tmp_path: Path, cut: float) -> None:
    """A share of it kept, or bytes cut off its end: there the pixels are whole, and it is not."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (67, 71, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: int(cut * len(content)) if cut > 0 else int(cut)])
    source = PanopticMask(tmp_path / "a.png", (3,))
    with pytest.raises(
        MediaError,
        match=r"^f:3: phrase 1 'a cup': .*a\.png: cannot be decoded, it is truncated or damaged: "
        r".*; write or download it again",
    ):
        read_mask(source, 67, 71, "f:3: phrase 1 'a cup'")


POINTS = st.tuples(st.floats(-5, WIDTH + 5), st.floats(-5, HEIGHT + 5))
POLYGONS = st.lists(
    st.lists(POINTS, min_size=3, max_size=6).map(lambda points: [v for p in points for v in p]),
    min_size=1,
    max_size=3,
)


@settings(max_examples=60, deadline=None)
@given(POLYGONS)
def test_polygons_fill_as_the_coco_api_does(polygons: list[list[float]]) -> None:
    mask = PolygonMask(tuple(map(tuple, polygons)), HEIGHT, WIDTH).read()
    codes = coco.frPyObjects(polygons, HEIGHT, WIDTH)
    assert np.array_equal(mask, decode_run_length(coco.merge(codes)))
    each = [PolygonMask((tuple(polygon),), HEIGHT, WIDTH) for polygon in polygons]
    assert np.array_equal(mask, UnionMask(tuple(each)).read())


def test_a_polygon_is_where_it_says() -> None:
    # x 2 to 9, y 3 to 5: to the right and down, in pixels.
    mask = PolygonMask(((2.0, 3.0, 9.0, 3.0, 9.0, 5.0, 2.0, 5.0),), HEIGHT, WIDTH).read()
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[3:5, 2:9] = True
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], r"\[\]; a list of at least one polygon"),
        ("abc", "'abc'; a list of at least one polygon"),
        ([[1, 2, 3, 4]], r"polygon 0 is \[1, 2, 3, 4\]; allowed: x0, y0, x1, y1, ... of at least"),
        ([[0, 0, 1, 1, 2, 2], [1, 2, 3, 4, 5, 6, 7]], "polygon 1 is .* at least three points"),
        ([[0, 0, 1, 1, 2, float("nan")]], "finite numbers"),
        ([[0, 0, 1, 1, 2, "3"]], "finite numbers"),
        ([[0, 0, 1, 1, 2, 3e30]], "polygon 0 has a coordinate of 3e.30; give pixels"),
        ({"counts": "abc"}, "without size"),
        ({}, "without size and counts"),
    ],
)
def test_what_is_no_segmentation_is_told(value: Any, words: str) -> None:
    fault = read_segmentation(value, HEIGHT, WIDTH, "m")
    assert isinstance(fault, str) and re.search(words, fault), fault


@pytest.mark.parametrize("text", [True, False])
def test_run_lengths_are_read_in_both_forms(text: bool) -> None:
    mask = labels() > 2
    code = encode_run_length(mask)
    if not text:
        flat = mask.T.reshape(-1)
        edges = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
        runs = np.diff(edges).tolist()
        code["counts"] = [0, *runs] if flat[0] else runs
    source = read_segmentation(code, HEIGHT, WIDTH, "m")
    assert isinstance(source, RunLengthMask)
    assert np.array_equal(source.read(), mask)


def test_a_run_length_mask_of_wrong_length_is_named() -> None:
    code = {"size": [HEIGHT, WIDTH], "counts": [100, 80]}
    with pytest.raises(
        DataError,
        match=r"^f:3: phrase 1 'a cup': f:3 segmentation: run lengths add up to 180 pixels "
        r"\(shortest 80\), size 11 x 17 asks for 187; the mask is cut off or its size is swapped, "
        "encode it again",
    ):
        read_mask(RunLengthMask(code, "f:3 segmentation"), 11, 17, "f:3: phrase 1 'a cup'")
    huge = {"size": [2**31, 2**31], "counts": [2**62]}
    with pytest.raises(DataError, match=r"= 4611686018427387904 pixels; at most 89478485"):
        RunLengthMask(huge).read()


def test_sizes_of_a_union_agree() -> None:
    one, other = ArrayMask(labels() > 2), ArrayMask(labels().T > 2)
    with pytest.raises(DataError, match=r"u: 2 masks of the sizes \[\(11, 17\), \(17, 11\)\]"):
        UnionMask((one, other), "u").read()
    with pytest.raises(DataError, match=r"u: 0 masks of the sizes \[\]; give at least one"):
        UnionMask((), "u").read()


@pytest.mark.parametrize(
    "source",
    [
        ArrayMask(labels() > 2),
        RunLengthMask(encode_run_length(labels() > 2)),
        PolygonMask(((1.0, 1.0, 9.0, 1.0, 9.0, 9.0),), HEIGHT, WIDTH),
        UnionMask((ArrayMask(labels() > 2), ArrayMask(labels() < 1))),
    ],
    ids=lambda source: type(source).__name__,
)
def test_sources_travel_to_loader_processes(source: MaskSource) -> None:
    copy = pickle.loads(pickle.dumps(source))
    assert np.array_equal(copy.read(), source.read())


def test_real_panoptic_segments_have_the_area_their_file_says(
    shared_data: Path, tmp_path: Path
) -> None:
    unpack(shared_data / "coco_dev.tar", tmp_path)
    folder = tmp_path / "coco128"
    records = json.loads((folder / "panoptic.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in records["images"]}
    compared = 0
    for record in records["annotations"][:20]:
        path = folder / "panoptic" / record["file_name"]
        for segment in record["segments_info"]:
            mask = read_mask(
                PanopticMask(path, (segment["id"],)), *sizes[record["image_id"]], "segment"
            )
            assert mask.sum() == segment["area"]
            left, top, width, height = segment["bbox"]
            assert mask[top : top + height, left : left + width].sum() == segment["area"]
            compared += 1
    assert compared > 100
