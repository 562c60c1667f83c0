"""The benchmark of real pictures: its split, its control and its table, on drawn pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.coco_pointing import PARTS, divide, exchange_pictures, tabulate
from chiasm.core.samples import Sample, Turn
from chiasm.data.splitting import image_name


def test_the_parts_share_no_image_and_their_files_hold_their_own_annotations(
    tmp_path: Path,
) -> None:
    (tmp_path / "images").mkdir()
    images, annotations = [], []
    for number in range(1, 20):
        name = f"{number:06d}.png"
        Image.new("RGB", (7, 5)).save(tmp_path / "images" / name)
        images.append({"id": number, "file_name": name, "height": 5, "width": 7})
        annotations.append(
            {
                "id": 100 + number,
                "image_id": number,
                "category_id": 3,
                "bbox": [1, 1, 3, 2],
                "segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]],
                "iscrowd": 0,
            }
        )
    file = tmp_path / "instances.json"
    categories = [{"id": 3, "name": "kite"}]
    whole = {"images": images, "annotations": annotations, "categories": categories}
    file.write_text(json.dumps(whole))
    parts = divide(file, tmp_path / "images", tmp_path / "runs")
    names = {part: {image_name(s.images[0]) for s in samples} for part, samples in parts.items()}
    assert set(names) == set(PARTS) and not names["train"] & names["held_out"]
    assert sum(map(len, names.values())) == len(images)
    for part, found in names.items():
        written = json.loads((tmp_path / "runs" / f"{part}.json").read_text())
        assert {str(image["id"]) for image in written["images"]} == found
        assert {str(entry["image_id"]) for entry in written["annotations"]} == found


def test_the_control_shows_the_next_picture_at_the_size_of_the_own() -> None:
    sizes, greys = [(7, 5), (11, 3), (2, 13)], [10, 20, 30]
    samples = [
        Sample(str(grey), (Turn("user", (0, "a kite")),), (Image.new("RGB", size, (grey,) * 3),))
        for size, grey in zip(sizes, greys, strict=True)
    ]
    exchanged = exchange_pictures(samples)
    assert [sample.identifier for sample in exchanged] == ["10", "20", "30"]
    pictures = [np.asarray(sample.images[0]) for sample in exchanged]
    assert [picture.shape[1::-1] for picture in pictures] == sizes
    assert [int(picture.min()) for picture in pictures] == [20, 30, 10]


def test_the_table_has_a_line_a_maker_and_leaves_out_what_was_not_measured() -> None:
    scores = {
        "mean_iou": 0.5,
        "refined.mean_iou": 0.5,
        "refined.mean_iou/things": 0.25,
        "refined.covered": 0.125,
        "constant.mean_iou": 0.375,
    }
    lines = tabulate(scores).splitlines()
    assert lines == [
        "  constant         mean IoU 0.375",
        "  refined          mean IoU 0.500  things 0.250  covers 0.125",
    ]
