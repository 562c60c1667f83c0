"""A world as ordinary files, in the forms that users bring.

    OUTPUT/
      world.json                what was made: name, seed, counts, configuration
      images/SPLIT/N.png        never JPEG, which would destroy a fine texture
      SPLIT.jsonl               conversations in the OpenAI and Qwen messages form
      SPLIT.captions.json       captions without a user turn: image_path and conversations
      SPLIT.instances.json      COCO instances: visible masks, and `whole_segmentation`
      SPLIT.refer.jsonl         referring expressions, each with the mask it points at

All paths inside the files are relative to OUTPUT. Masks are COCO run-length codes. Moving worlds
are written as videos, see `motion_write`; worlds of pairs with all pictures, see `pair_writing`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from chiasm.core.config import lookup
from chiasm.core.errors import InputError, UnknownNameError
from chiasm.data.world.motion_sampling import MotionConfig
from chiasm.data.world.motion_worlds import MOTION_WORLDS
from chiasm.data.world.motion_write import write_motion_split
from chiasm.data.world.pair_writing import write_pair_split
from chiasm.data.world.sampling import SPLITS, stream
from chiasm.data.world.scene import SHAPES
from chiasm.data.world.words import caption, references
from chiasm.data.world.worlds import WORDS_STREAM, WORLDS, Item, WorldConfig, boxes, draw

FORMAT_VERSION = 1
"""Grows when the same name and seed give other files."""

Json = dict[str, Any]
Progress = Callable[[int, int], None]
"""Called with (scenes written, scenes in all)."""


def make(
    world: str,
    output: str | os.PathLike[str],
    count: int,
    seed: int = 0,
    *,
    splits: Sequence[str] = SPLITS,
    questions_per_image: int = 1,
    progress: Progress | None = None,
) -> Json:
    """Write a world to a folder.

    The folder appears complete or not at all: files are written beside it under another name,
    which is renamed at the end.

    Args:
        world: Name in `WORLDS` or `MOTION_WORLDS`.
        output: The folder to make; it must not exist, or be empty.
        count: Scenes for training; the other splits get a tenth each, at least one.
        seed: Seed of all splits.
        splits: Which splits to write.
        questions_per_image: Most questions in one conversation.
        progress: Called after each scene.

    Returns:
        What `world.json` holds, and `output`.

    Raises:
        UnknownNameError: The world or a split is not known.
        InputError: The output is in use, or a count is below 1.
    """
    worlds: dict[str, WorldConfig | MotionConfig] = {**WORLDS, **MOTION_WORLDS}
    config = lookup(worlds, world, "world")
    folder = Path(output).absolute()
    _check(folder, count, splits, questions_per_image)
    counts = {split: count if split == "train" else max(1, count // 10) for split in splits}
    summary: Json = {
        "name": world,
        "version": FORMAT_VERSION,
        "seed": seed,
        "counts": counts,
        "questions_per_image": questions_per_image,
        "config": config.model_dump(mode="json"),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    partial.mkdir()
    try:
        done = 0
        for split, number in counts.items():
            for _ in _write_split(partial, config, split, seed, number, questions_per_image):
                done += 1
                if progress is not None:
                    progress(done, sum(counts.values()))
        _write_json(partial / "world.json", summary)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {**summary, "output": os.fspath(output)}


def _check(folder: Path, count: int, splits: Sequence[str], questions_per_image: int) -> None:
    for split in splits:
        if split not in SPLITS:
            raise UnknownNameError("split", split, SPLITS)
    if count < 1 or questions_per_image < 1 or not splits:
        raise InputError(
            f"count={count}, questions_per_image={questions_per_image}, splits={list(splits)}; "
            "counts must be at least 1, and at least one split must be named"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"output {folder} exists and is not an empty folder; name another folder, or remove "
            "this one first"
        )


def _write_split(
    folder: Path,
    config: WorldConfig | MotionConfig,
    split: str,
    seed: int,
    count: int,
    questions: int,
) -> Iterable[int]:
    """Write the files of one split, yielding after each scene."""
    if isinstance(config, MotionConfig):
        yield from write_motion_split(folder, config, split, seed, count, questions)
        return
    if config.occlusion is not None:
        yield from write_pair_split(folder, config, split, seed, count, questions)
        return
    (folder / "images" / split).mkdir(parents=True)
    captions: list[Json] = []
    instances: Json = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1 + i, "name": shape} for i, shape in enumerate(SHAPES)],
    }
    with (
        (folder / f"{split}.jsonl").open("w", encoding="utf-8") as conversations,
        (folder / f"{split}.refer.jsonl").open("w", encoding="utf-8") as phrases,
    ):
        for index in range(count):
            item = draw(config, split, seed, index, questions)
            path = f"images/{split}/{index}.png"
            Image.fromarray(item.rendering.image).save(folder / path, compress_level=1)
            words = stream(seed, split, index, WORDS_STREAM)
            captions.append(_caption(item, path, words))
            _write_line(conversations, _conversation(item, path, f"{split}-{index}"))
            annotations = _annotations(item, index, len(instances["annotations"]) + 1)
            for record in _phrases(item, path, f"{split}-{index}", annotations, words):
                _write_line(phrases, record)
            instances["images"].append(_image_record(item, path, index))
            instances["annotations"] += annotations
            yield index
    _write_json(folder / f"{split}.captions.json", captions)
    _write_json(folder / f"{split}.instances.json", instances)


def _conversation(item: Item, path: str, identifier: str) -> Json:
    messages: list[Json] = []
    for place, question in enumerate(item.questions):
        content: list[Json] = [{"type": "text", "text": question.text}]
        if place == 0:
            content.insert(0, {"type": "image", "image": path})
        messages.append({"role": "user", "content": content})
        messages.append({"role": "assistant", "content": question.answer})
    kinds = {question.kind for question in item.questions}
    return {
        "id": identifier,
        "messages": messages,
        "group": item.questions[0].kind if len(kinds) == 1 else "mixed",
        "kinds": [question.kind for question in item.questions],
        "answers": [list(question.answers) for question in item.questions],
    }


def _caption(item: Item, path: str, rng: np.random.Generator) -> Json:
    text = caption(item.scene, rng)
    return {"image_path": path, "conversations": [{"role": "assistant", "content": text}]}


def _image_record(item: Item, path: str, index: int) -> Json:
    return {
        "id": index,
        "file_name": path,
        "height": item.scene.height,
        "width": item.scene.width,
    }


def _annotations(item: Item, image: int, first: int) -> list[Json]:
    records: list[Json] = []
    found = boxes(item.rendering)
    for index, thing in enumerate(item.scene.things):
        left, top, right, bottom = found[index]
        records.append(
            {
                "id": first + index,
                "image_id": image,
                "category_id": 1 + list(SHAPES).index(thing.shape),
                "iscrowd": 0,
                "bbox": [left, top, right - left, bottom - top],
                "area": int(item.rendering.visible[index].sum()),
                "segmentation": encode_mask(item.rendering.visible[index]),
                "whole_segmentation": encode_mask(item.rendering.whole[index]),
                "attributes": item.scene.attributes(index),
            }
        )
    return records


def _phrases(
    item: Item, path: str, identifier: str, annotations: list[Json], rng: np.random.Generator
) -> Iterable[Json]:
    for index, annotation in enumerate(annotations):
        found = references(item.scene, index, longer=True)
        if not found:
            continue
        yield {
            "id": f"{identifier}-{index}",
            "image": path,
            "phrase": f"the {found[int(rng.integers(len(found)))]}",
            "segmentation": annotation["segmentation"],
            "bbox": annotation["bbox"],
        }


def encode_mask(mask: NDArray[np.bool_]) -> Json:
    """Return a mask bool (H, W) as a COCO run-length code: `size` [H, W] and `counts` text."""
    code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}


def _write_line(file: TextIO, record: Json) -> None:
    file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
