"""Small files of phrases and masks, as a user would bring them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.tiny import picture

HEIGHT, WIDTH = 48, 64


def write_phrases(folder: Path, lines: str) -> None:
    """Write a folder of two images, two files of masks, and the phrases given."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for seed, name in enumerate(("a", "b")):
        picture(HEIGHT, WIDTH, seed).save(folder / "images" / f"{name}.png")
    labels = np.random.default_rng(0).integers(0, 5, (HEIGHT, WIDTH), dtype=np.uint8)
    Image.fromarray(labels).save(folder / "masks" / "labels.png")
    Image.fromarray(labels == 2).save(folder / "masks" / "cup.png")
    (folder / "phrases.jsonl").write_text(lines, encoding="utf-8")


def write_panoptic(file: Path, count: int = 5) -> None:
    """Write a COCO panoptic file of `count` images: half of each is a dog, half a wall."""
    folder = file.with_suffix("")
    (file.parent / "images").mkdir(exist_ok=True)
    folder.mkdir()
    images, annotations = [], []
    for index in range(count):
        name = f"panoptic-{index}.png"
        picture(HEIGHT, WIDTH, index).save(file.parent / "images" / name)
        pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        pixels[:, : WIDTH // 2] = (2, 1, 0)
        pixels[:, WIDTH // 2 :] = (5, 0, 1)
        Image.fromarray(pixels).save(folder / name)
        images.append({"id": index, "file_name": name, "height": HEIGHT, "width": WIDTH})
        segments = [{"id": 258, "category_id": 1}, {"id": 65541, "category_id": 2}]
        annotations.append({"image_id": index, "file_name": name, "segments_info": segments})
    categories = [
        {"id": 1, "name": "dog", "isthing": 1},
        {"id": 2, "name": "wall-other-merged", "isthing": 0},
    ]
    tables = {"images": images, "annotations": annotations, "categories": categories}
    file.write_text(json.dumps(tables), encoding="utf-8")
