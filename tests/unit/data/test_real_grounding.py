"""Real images, segments and expressions, from file to batch."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from chiasm.core.run_length import decode_run_length
from chiasm.data.check import check
from chiasm.data.collate import Collator
from chiasm.data.dataset import load_dataset
from chiasm.data.formats.grounding import GroundingOptions
from chiasm.data.prompts import Prompter
from chiasm.data.splitting import image_name, split_by_image
from tests.archives import unpack
from tests.tiny import tiny_qwen2_5_vl


@pytest.fixture(scope="module")
def real(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    for name in ("coco_dev.tar", "text_annotations.tar"):
        unpack(shared_data / name, folder)
    return folder


def test_every_panoptic_mask_is_sound(real: Path) -> None:
    path = real / "coco128" / "panoptic.json"
    report = check(path)
    assert (report.format, report.faults, report.dropped) == ("coco_panoptic", (), {})
    assert (report.samples, report.phrases, report.masks) == (98, 651, 651)
    each = load_dataset(path, grounding=GroundingOptions(phrase_per="instance"))
    records = json.loads(path.read_text())["annotations"]
    segments = sum(
        len(r["segments_info"]) - sum(s["iscrowd"] for s in r["segments_info"]) for r in records
    )
    assert sum(len(sample.phrases) for sample in each) == segments


def test_every_instance_mask_is_that_of_the_coco_api(real: Path) -> None:
    path = real / "mini" / "instances.json"
    report = check(path)
    assert (report.format, report.faults) == ("coco_instances", ())
    assert (report.samples, report.masks) == (74, report.phrases)
    tables = json.loads(path.read_text())
    annotations = {f"{a['id']}": a for a in tables["annotations"]}
    sizes = {image["id"]: (image["height"], image["width"]) for image in tables["images"]}
    each = load_dataset(path, grounding=GroundingOptions(phrase_per="instance"))
    assert each.dropped["crowd regions"] == sum(a["iscrowd"] for a in annotations.values())
    for sample in list(each)[:15]:
        for phrase in sample.phrases:
            annotation = annotations[phrase.identifier]
            height, width = sizes[annotation["image_id"]]
            codes = coco.frPyObjects(annotation["segmentation"], height, width)
            assert phrase.mask is not None
            assert np.array_equal(phrase.mask.read(), decode_run_length(coco.merge(codes)))


def test_a_batch_of_real_images(real: Path) -> None:
    host = tiny_qwen2_5_vl()
    collate = Collator(Prompter(host.tokenizer, host.image_token, host.image_text), host.preparer)
    dataset = load_dataset(real / "coco128" / "panoptic.json")
    batch = collate([dataset[index] for index in (3, 17, 42)])
    phrases = batch.phrases
    assert phrases is not None
    assert len(phrases) == sum(len(dataset[index].phrases) for index in (3, 17, 42))
    for index in range(len(phrases)):
        geometry = batch.geometries[int(phrases.images[index])]
        size = (geometry.original_height, geometry.original_width)
        assert phrases.masks[index].shape == size
        sample = batch.samples[int(phrases.rows[index])]
        position = index - int((phrases.rows < phrases.rows[index]).sum())
        phrase = sample.phrases[position]
        places = phrases.tokens[phrases.tokens[:, 0] == index, 1]
        ids = batch.input_ids[int(phrases.rows[index]), places].tolist()
        text = sample.turns[1].text[phrase.start : phrase.stop]
        assert host.tokenizer.decode(ids).strip() == text


@pytest.mark.parametrize("name", ["refcoco_unc_val", "refcoco+_unc_val", "refcocog_umd_val"])
def test_real_expressions_with_boxes(real: Path, name: str) -> None:
    path = real / "refcoco_rec" / f"{name}.jsonl"
    path.write_bytes(gzip.decompress((path.parent / f"{path.name}.gz").read_bytes()))
    dataset = load_dataset(path)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert dataset.format == "phrases"
    assert sum(len(sample.phrases) for sample in dataset) == len(records)
    assert len(dataset) == len({record["image_id"] for record in records})
    sizes = {record["img_path"]: (record["width"], record["height"]) for record in records}
    for sample in dataset:
        assert isinstance(sample.images[0], Path)
        width, height = sizes[sample.images[0].name]
        for left, top, right, bottom in sample.truth["boxes"]:
            assert 0 <= left <= right <= width and 0 <= top <= bottom <= height
    first = dataset[0]
    said = [first.turns[1].text[p.start : p.stop] for p in first.phrases]
    assert said == [r["expression"].strip() for r in records if r["img_path"] == first.identifier]


def test_a_held_out_part_shares_no_image_with_another_set(real: Path) -> None:
    parts = {"train": 0.7, "held_out": 0.3}
    panoptic = split_by_image(load_dataset(real / "coco128" / "panoptic.json"), parts)
    instances = split_by_image(load_dataset(real / "mini" / "instances.json"), parts)

    def names(part: str) -> set[str]:
        return {
            image_name(s[index].images[0])
            for s in (panoptic[part], instances[part])
            for index in range(len(s))
        }

    assert not names("train") & names("held_out")
    assert 20 <= len(panoptic["held_out"]) <= 40
    with Image.open(panoptic["held_out"][0].images[0]) as image:  # type: ignore[arg-type]
        assert image.width > 100
