"""Files of phrases and masks: what each form is read into, and what is refused or left out."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chiasm.core.errors import DataError
from chiasm.core.run_length import encode_run_length
from chiasm.core.samples import Sample
from chiasm.data.check import check
from chiasm.data.dataset import FileDataset, create_dataset, load_dataset
from chiasm.data.formats.grounding import GroundingOptions
from chiasm.data.locating import phrase_faults
from chiasm.data.world.write import make

HEIGHT, WIDTH = 23, 37


def blob(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((HEIGHT, WIDTH)) < 0.4


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def written(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def said(sample: Sample) -> list[str]:
    return [sample.turns[p.turn].text[p.start : p.stop] for p in sample.phrases]


def pixels(sample: Sample, index: int) -> np.ndarray:
    mask = sample.phrases[index].mask
    assert mask is not None
    return mask.read()


def faults_of(path: Path, **options: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        load_dataset(path, **options)
    return [fault.replace(f"{path.parent}/", "") for fault in caught.value.faults]


def image_records(count: int) -> list[dict[str, Any]]:
    return [
        {"id": 70 + i, "file_name": f"{70 + i}.png", "height": HEIGHT, "width": WIDTH}
        for i in range(count)
    ]


CATEGORIES = [
    {"id": 3, "name": "dog", "isthing": 1},
    {"id": 5, "name": "wall-other-merged", "isthing": 0},
    {"id": 7, "name": "floor-wood", "isthing": 0},
]


# COCO instances


def instance(identifier: int, image: int, category: int, **more: Any) -> dict[str, Any]:
    return {
        "id": identifier,
        "image_id": image,
        "category_id": category,
        "bbox": [identifier, 2, 5.5, 7],
        "segmentation": encode_run_length(blob(identifier)),
        **more,
    }


@pytest.fixture
def instances(tmp_path: Path) -> Path:
    for index in range(3):
        picture(tmp_path / "images" / f"{70 + index}.png", index)
    polygon = [[1.0, 1.0, 20.0, 1.0, 20.0, 9.0]]
    annotations = [
        instance(1, 70, 3),
        instance(2, 71, 5),
        instance(3, 70, 5, segmentation=polygon),
        instance(4, 70, 3),
        instance(6, 70, 3, iscrowd=1),
    ]
    tables = {
        "images": image_records(3),
        "annotations": annotations,
        "categories": CATEGORIES,
    }
    return written(tmp_path / "instances.json", tables)


def test_a_category_is_one_phrase_for_all_its_pixels(instances: Path) -> None:
    dataset = load_dataset(instances)
    assert dataset.format == "coco_instances"
    assert dataset.dropped == {"images without a phrase": 1}
    assert [sample.identifier for sample in dataset] == ["70", "71"]
    sample = dataset[0]
    assert [turn.text for turn in sample.turns] == ["Describe this image.", "dog. wall"]
    assert sample.turns[0].parts[0] == 0 and not sample.turns[1].supervised
    assert sample.images == (instances.parent / "images" / "70.png",)
    assert said(sample) == ["dog", "wall"]
    assert np.array_equal(pixels(sample, 0), blob(1) | blob(4) | blob(6))
    assert pixels(sample, 1)[3, 8] and not pixels(sample, 1)[15, 8]
    assert [(p.thing, p.plural) for p in sample.phrases] == [(True, True), (False, False)]
    assert [p.identifier for p in sample.phrases] == ["category-3", "category-5"]
    assert sample.truth["boxes"] == [[1, 2, 11.5, 9], [3, 2, 8.5, 9]]
    assert sample.truth["image_id"] == 70 and sample.group == "phrases"


def test_an_instance_is_a_phrase_where_asked(instances: Path) -> None:
    options = GroundingOptions(phrase_per="instance")
    dataset = load_dataset(instances, "coco_instances", grounding=options)
    assert dataset.dropped == {"images without a phrase": 1, "crowd regions": 1}
    assert said(dataset[0]) == ["dog", "wall", "dog"]
    assert [p.identifier for p in dataset[0].phrases] == ["1", "3", "4"]
    assert np.array_equal(pixels(dataset[0], 2), blob(4))
    assert not any(p.plural for p in dataset[0].phrases)


def test_samples_of_few_phrases(instances: Path) -> None:
    options = GroundingOptions(phrase_per="instance", phrases_per_sample=1, supervise=True)
    dataset = load_dataset(
        instances, grounding=options, caption_request="What is here?", group="coco"
    )
    assert [sample.identifier for sample in dataset] == ["70-0", "70-1", "70-2", "71"]
    assert [said(sample) for sample in dataset] == [["dog"], ["wall"], ["dog"], ["wall"]]
    assert [sample.turns[1].text for sample in dataset] == ["dog", "wall", "dog", "wall"]
    assert all(sample.turns[1].supervised for sample in dataset)
    assert all(sample.turns[0].text == "What is here?" for sample in dataset)
    assert [sample.truth["boxes"] for sample in dataset][1] == [[3, 2, 8.5, 9]]
    assert {sample.group for sample in dataset} == {"coco"}


def test_faults_of_coco_files_are_told_together(instances: Path) -> None:
    tables = json.loads(instances.read_text())
    tables["annotations"] += [
        instance(7, 99, 3),
        instance(8, 70, 9),
        instance(9, 70, 3, segmentation=[[1, 2]]),
        instance(10, 72, 3),
    ]
    tables["images"][2].pop("height")
    tables["images"].append({"id": "x", "file_name": 3})
    written(instances, tables)
    assert faults_of(instances) == [
        "instances.json: images[3]: {'id': 'x', 'file_name': 3}; it needs a whole number as id, "
        "and file_name",
        "instances.json: annotations[5]: image_id 99 is in no table of the file; the file is "
        "incomplete; download it again",
        "instances.json: annotations[6]: category_id 9 is in no table of the file; the file is "
        "incomplete; download it again",
        "instances.json: annotations[7].segmentation: polygon 0 is [1, 2]; allowed: x0, y0, x1, "
        "y1, ... of at least three points, finite numbers; polygons, or run lengths with size and "
        "counts, of an image with height and width",
        "instances.json: annotations[8].segmentation: in an image of None x 37 pixels (height x "
        "width); polygons, or run lengths with size and counts, of an image with height and width",
    ]


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"images": [], "categories": []}, "annotations: missing; a list of objects is needed"),
        ({"images": 3, "annotations": [], "categories": []}, "images: 3; a list of objects"),
        ({"images": [1], "annotations": [], "categories": []}, r"images: \[1\]; a list of objects"),
    ],
)
def test_tables_must_be_lists(tmp_path: Path, tables: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_dataset(written(tmp_path / "a.json", tables), "coco_instances")


# COCO panoptic and panoptic narratives


def panoptic_pixels(seed: int, ids: tuple[int, ...]) -> np.ndarray:
    return np.array(ids)[np.random.default_rng(seed).integers(0, len(ids), (HEIGHT, WIDTH))]


@pytest.fixture
def panoptic(tmp_path: Path) -> Path:
    annotations = []
    for index, ids in enumerate([(0, 258, 66000, 5), (0, 9)]):
        picture(tmp_path / "val2017" / f"{70 + index}.png", index)
        segments = panoptic_pixels(index, ids)
        colours = np.stack([segments % 256, segments // 256 % 256, segments // 65536], -1)
        folder = tmp_path / "annotations" / "panoptic_val2017"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colours.astype(np.uint8)).save(folder / f"{70 + index}.png")
        categories = {258: 3, 66000: 3, 5: 7, 9: 5}
        annotations.append(
            {
                "image_id": 70 + index,
                "file_name": f"{70 + index}.png",
                "segments_info": [
                    {"id": i, "category_id": categories[i], "bbox": [0, 0, 3, 4], "iscrowd": 0}
                    for i in ids[1:]
                ],
            }
        )
    tables = {"images": image_records(2), "annotations": annotations, "categories": CATEGORIES}
    return written(tmp_path / "annotations" / "panoptic_val2017.json", tables)


def test_panoptic_segments_are_named_by_category(panoptic: Path, tmp_path: Path) -> None:
    dataset = load_dataset(panoptic, media_root=tmp_path)
    assert dataset.format == "coco_panoptic"
    sample = dataset[0]
    assert sample.images == (tmp_path / "val2017" / "70.png",)
    assert said(sample) == ["dog", "floor wood"]
    segments = panoptic_pixels(0, (0, 258, 66000, 5))
    assert np.array_equal(pixels(sample, 0), np.isin(segments, (258, 66000)))
    assert np.array_equal(pixels(sample, 1), segments == 5)
    assert [(p.thing, p.plural) for p in sample.phrases] == [(True, True), (False, False)]
    each = load_dataset(
        panoptic, media_root=tmp_path, grounding=GroundingOptions(phrase_per="instance")
    )
    assert said(each[0]) == ["dog", "dog", "floor wood"]
    assert np.array_equal(pixels(each[0], 1), segments == 66000)


def test_faults_of_panoptic_files(panoptic: Path) -> None:
    tables = json.loads(panoptic.read_text())
    tables["annotations"][0]["segments_info"] += [{"id": "a"}, {"id": 3, "category_id": 99}]
    tables["annotations"].append({"image_id": 70})
    written(panoptic, tables)
    assert faults_of(panoptic) == [
        "panoptic_val2017.json: annotations[0].segments_info: {'id': 'a'}; a segment is an object "
        "with a whole number as id",
        "panoptic_val2017.json: annotations[0]: category_id 99 is in no table of the file; the "
        "file is incomplete; download it again",
        "panoptic_val2017.json: annotations[2]: has the fields ['image_id']; a panoptic annotation "
        "has file_name and segments_info",
    ]


def piece(utterance: str, *ids: int | str, **more: Any) -> dict[str, Any]:
    return {"utterance": utterance, "segment_ids": list(ids), **more}


@pytest.fixture
def narratives(panoptic: Path, tmp_path: Path) -> Path:
    records = [
        {
            "image_id": "70",
            "caption": "Here two dogs lie on a dog's floor.",
            "segments": [
                piece("Here"),
                piece("two dogs", "258", "66000", plural=True, noun=True),
                piece("lie on"),
                piece(" a dog ", 258, plural=False),
                piece("floor", "5"),
                piece("."),
                piece(""),
            ],
        },
        {"image_id": 71, "caption": "Nothing.", "segments": [piece("Nothing.")]},
        {"image_id": 71, "caption": "A wall.", "segments": [piece("A wall", "9")]},
        {"image_id": 71, "caption": "The wall.", "segments": [piece("The wall", "9")]},
    ]
    return written(tmp_path / "png_coco_val2017.json", records)


def test_narratives_are_texts_with_phrases_in_them(narratives: Path) -> None:
    dataset = load_dataset(narratives)
    assert dataset.format == "narratives"
    assert dataset.dropped == {"narratives without a grounded phrase": 1}
    assert [sample.identifier for sample in dataset] == ["70", "71", "71-narrative-2"]
    sample = dataset[0]
    assert sample.turns[1].text == "Here two dogs lie on a dog floor ."
    assert said(sample) == ["two dogs", "a dog", "floor"]
    segments = panoptic_pixels(0, (0, 258, 66000, 5))
    for index, ids in enumerate([(258, 66000), (258,), (5,)]):
        assert np.array_equal(pixels(sample, index), np.isin(segments, ids))
    assert [(p.thing, p.plural) for p in sample.phrases] == [
        (True, True),
        (True, False),
        (False, False),
    ]
    assert sample.origin.endswith("png_coco_val2017.json:1")
    report = check(narratives)
    assert (report.faults, report.records, report.samples) == ((), 4, 3)
    assert (report.phrases, report.masks) == (5, 5)
    assert report.document()["dropped"] == {"narratives without a grounded phrase": 1}


def test_few_phrases_a_sample_keep_the_whole_text(narratives: Path) -> None:
    dataset = load_dataset(narratives, grounding=GroundingOptions(phrases_per_sample=2))
    assert [said(sample) for sample in dataset][:2] == [["two dogs", "a dog"], ["floor"]]
    assert dataset[0].turns == dataset[1].turns
    assert [sample.identifier for sample in dataset][:2] == ["70-0", "70-1"]


def test_faults_of_narratives(narratives: Path, panoptic: Path) -> None:
    records = json.loads(narratives.read_text())
    records[0]["segments"][1]["segment_ids"] = ["258", "77"]
    records[1]["segments"] = "none"
    records[2]["segments"][0] = {"text": "A wall"}
    records[3]["image_id"] = 99
    narratives.write_text("\n".join(json.dumps(record) for record in records))
    assert faults_of(narratives) == [
        "png_coco_val2017.json:1: segments[1].segment_ids: ['258', '77'] of 'two dogs': 77 is no "
        "segment of image 70; it has [258, 66000, 5]",
        "png_coco_val2017.json:2: segments: 'none'; a list of utterances is needed",
        "png_coco_val2017.json:3: segments[0]: {'text': 'A wall'}; it needs an utterance",
        "png_coco_val2017.json:4: image_id: 99; an image of the panoptic file is needed",
    ]
    panoptic.unlink()
    with pytest.raises(DataError, match=r"no panoptic file beside it; looked for .*/annotat"):
        load_dataset(narratives)


# RefCOCO


def reference(identifier: int, image: int, split: str, *sentences: str) -> dict[str, Any]:
    return {
        "ref_id": identifier,
        "ann_id": identifier,
        "image_id": image,
        "category_id": 3,
        "split": split,
        "sent_ids": list(range(len(sentences))),
        "sentences": [{"sent": text, "raw": text.upper(), "sent_id": 1} for text in sentences],
    }


@pytest.fixture
def refcoco(instances: Path) -> Path:
    references = [
        reference(1, 70, "train", "Left dog", "the dog", "dog on the left"),
        reference(2, 71, "val", "wall"),
        reference(3, 70, "train", "Wall Behind", "big wall"),
        reference(4, 71, "val", "other dog", "second one"),
    ]
    tables = json.loads(instances.read_text())
    tables["annotations"][3]["image_id"] = 71
    written(instances, tables)
    file = instances.parent / "refs(unc).p"
    file.write_bytes(pickle.dumps(references, 2))
    return file


SENTENCES = {"1": {"left dog", "the dog", "dog on the left"}, "3": {"wall behind", "big wall"}}


@pytest.mark.parametrize("folder", [True, False])
def test_expressions_of_an_image_are_one_sample(refcoco: Path, folder: bool) -> None:
    dataset = load_dataset(refcoco.parent if folder else refcoco)
    assert dataset.format == "refcoco"
    assert [sample.identifier for sample in dataset] == ["train-70", "val-71"]
    train, val = dataset
    assert val.turns[1].text == "wall. other dog", "evaluation says the first expression"
    assert [p.identifier for p in train.phrases] == ["1", "3"]
    drawn = zip(said(train), train.phrases, strict=True)
    assert all(text in SENTENCES[phrase.identifier] for text, phrase in drawn)
    assert np.array_equal(pixels(train, 0), blob(1))
    assert np.array_equal(pixels(val, 1), blob(4))
    assert val.truth["boxes"] == [[2, 2, 7.5, 9], [4, 2, 9.5, 9]]
    assert train.images[0] == refcoco.parent / "images" / "70.png"
    assert [s.identifier for s in load_dataset(refcoco, split="val")] == ["val-71"]


def test_training_draws_expressions_by_seed(refcoco: Path) -> None:
    def drawn(seed: int) -> list[str]:
        options = GroundingOptions(seed=seed)
        return said(load_dataset(refcoco, split="train", grounding=options)[0])

    draws = [drawn(seed) for seed in range(12)]
    assert drawn(5) == draws[5]
    assert {first for first, _ in draws} == SENTENCES["1"]
    assert {second for _, second in draws} == SENTENCES["3"]
    for seed in range(6):
        held_out = load_dataset(refcoco, split="val", grounding=GroundingOptions(seed=seed))
        assert said(held_out[0]) == ["wall", "other dog"], "evaluation says the first, always"
    first = load_dataset(refcoco, split="train", grounding=GroundingOptions(sentences="first"))
    assert said(first[0]) == ["left dog", "wall behind"]


def test_all_expressions_are_said_once(refcoco: Path) -> None:
    options = GroundingOptions(sentences="all")
    dataset = load_dataset(refcoco, split="train", grounding=options)
    assert [len(said(sample)) for sample in dataset] == [2, 2, 1]
    heard: dict[str, list[str]] = {}
    for sample in dataset:
        for text, phrase in zip(said(sample), sample.phrases, strict=True):
            heard.setdefault(phrase.identifier, []).append(text)
    assert {key: set(texts) for key, texts in heard.items()} == SENTENCES
    assert sum(map(len, heard.values())) == 5
    one = GroundingOptions(sentences="all", phrases_per_sample=1)
    assert len(load_dataset(refcoco, split="train", grounding=one)) == 5


def test_faults_of_references(refcoco: Path) -> None:
    references = [
        reference(1, 70, "train", "fine"),
        {"ref_id": 2},
        reference(3, 70, "train", "fine", " "),
        reference(77, 70, "train", "fine"),
        reference(4, 99, "train", "fine"),
    ]
    refcoco.write_bytes(pickle.dumps(references, 2))
    assert faults_of(refcoco) == [
        "refs(unc).p: refs[1]: without ann_id, image_id, split, sentences; a reference has ref_id, "
        "ann_id, image_id, split, sentences",
        "refs(unc).p: refs[2].sentences: [{'sent': 'fine', 'raw': 'FINE', 'sent_id': 1}, {'sent': "
        "' ', 'raw': ' ', 'se...; sentences have a text 'sent' that is not blank",
        "refs(unc).p: refs[3].ann_id: 77 is not in instances.json; both files are of one data set",
        "refs(unc).p: refs[4].image_id: 99 is not in instances.json; both files are of one data "
        "set",
    ]
    (refcoco.parent / "refs(google).p").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 files of references \(refs\(google\)\.p, refs\(unc\)"):
        load_dataset(refcoco.parent)
    refcoco.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(DataError, match=r"refs\(unc\)\.p: .*a dict; a list of references"):
        load_dataset(refcoco)
    (refcoco.parent / "instances.json").unlink()
    with pytest.raises(DataError, match=r"instances\.json: does not exist; the masks of refs"):
        load_dataset(refcoco)


def test_a_malicious_pickle_is_a_fault_of_the_file(refcoco: Path) -> None:
    refcoco.write_bytes(b"cos\nsystem\n(S'echo hi'\ntR.")
    with pytest.raises(DataError, match=r"refused, nothing of it was executed: it asks for os\.sy"):
        load_dataset(refcoco)
    report = check(refcoco)
    assert len(report.faults) == 1 and "nothing of it was executed" in str(report.faults[0])


# Lists of phrases


def listed(folder: Path, *records: dict[str, Any], name: str = "phrases.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(json.dumps(record) for record in records))
    return path


def test_a_folder_of_images_masks_and_phrases(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "images" / f"{name}.png")
    (tmp_path / "masks").mkdir()
    Image.fromarray(blob(1)).save(tmp_path / "masks" / "cup.png")
    labels = np.random.default_rng(2).integers(0, 5, (HEIGHT, WIDTH), dtype=np.uint8)
    Image.fromarray(labels).save(tmp_path / "masks" / "labels.png")
    polygon = [[0, 0, 9, 0, 9, 9]]
    size = {"height": HEIGHT, "width": WIDTH}
    listed(
        tmp_path,
        {"image": "images/a.png", "phrase": "the red cup", "mask": "masks/cup.png"},
        {
            "image": "images/b.png",
            "phrase": "Two dogs",
            "mask": {"path": "masks/labels.png", "values": [1, 3]},
            "plural": 1,
            "thing": 1,
            "id": "dogs",
        },
        {"image": "images/a.png", "phrase": " a hat ", "segmentation": encode_run_length(blob(3))},
        {"image": "images/a.png", "phrase": "a shoe", "segmentation": polygon, **size},
        {"image": "images/b.png", "phrase": "no one", "mask": encode_run_length(blob(4))},
    )
    dataset = load_dataset(tmp_path)
    assert dataset.format == "phrases"
    assert [sample.identifier for sample in dataset] == ["images/a.png", "images/b.png"]
    one, other = dataset
    assert one.turns[1].text == "the red cup. a hat. a shoe"
    assert said(other) == ["Two dogs", "no one"]
    assert np.array_equal(pixels(one, 0), blob(1))
    assert np.array_equal(pixels(one, 1), blob(3))
    assert pixels(one, 2)[1, 5] and pixels(one, 2).sum() < 60
    assert np.array_equal(pixels(other, 0), np.isin(labels, (1, 3)))
    assert [p.identifier for p in one.phrases] == ["1", "3", "4"]
    assert other.phrases[0].identifier == "dogs"
    assert other.phrases[0].plural is True and other.phrases[0].thing is True
    assert other.phrases[1].thing is None
    report = check(tmp_path)
    assert (report.faults, report.phrases, report.masks) == ((), 5, 5)
    assert [s.turns for s in load_dataset(tmp_path / "phrases.jsonl")] == [s.turns for s in dataset]


def test_boxes_are_no_masks(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    record = {"img_path": "a.png", "bbox": [1.5, 2.0, 30.0, 20.123], "split": "validation"}
    path = listed(
        tmp_path,
        {**record, "expression": "the dish", "sent_id": 3},
        {**record, "expression": "top right", "sent_id": 4},
        name="refs.jsonl",
    )
    sample = load_dataset(path)[0]
    assert [p.mask for p in sample.phrases] == [None, None]
    assert sample.truth == {"split": "validation", "boxes": [[1.5, 2.0, 30.0, 20.12]] * 2}
    assert [p.identifier for p in sample.phrases] == ["3", "4"]
    report = check(path)
    assert (report.faults, report.phrases, report.masks) == ((), 2, 0)


def test_faults_of_lists(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    good = {"image": "a.png", "phrase": "a", "mask": "m.png"}
    path = listed(
        tmp_path,
        {**good, "id": 1},
        {**good, "phrase": " "},
        {**good, "image": None, "img_path": None},
        {**good, "expression": "b"},
        {"image": "a.png", "phrase": "a"},
        {**good, "segmentation": {"size": [3, 4], "counts": "a"}},
        {"image": "a.png", "phrase": "a", "segmentation": [[0, 0, 9, 0, 9, 9]]},
        {"image": "a.png", "phrase": "a", "segmentation": {"counts": "a"}},
        {**good, "mask": {"path": "m.png", "values": "3"}},
        {**good, "bbox": [1, 2, 3]},
        {**good, "id": 1},
        {**good, "image": "https://example.org/a.png"},
        {**good, "split": 3},
        {**good, "bbox": [1, 2, 3, 4], "box": [1, 2, 3, 4]},
        {**good, "mask": {"path": "m.png", "values": []}},
        {**good, "mask": {"path": "m.png", "values": [-1]}},
        {**good, "plural": "no", "thing": "yes"},
    )
    allowed = 'a path, {"path": ..., "values": [...]}, run lengths, or polygons with size'
    assert faults_of(path, format="phrases") == [
        "phrases.jsonl:2: phrase: ' '; one text is needed",
        "phrases.jsonl:3: image: missing; one text is needed",
        "phrases.jsonl:4: phrase: phrase and expression given; one text is needed",
        "phrases.jsonl:5: mask: missing; a mask, a segmentation or a box is needed",
        "phrases.jsonl:6: mask and segmentation: both given; give one of them",
        f"phrases.jsonl:7: segmentation: polygons without height and width of the image; {allowed}",
        f"phrases.jsonl:8: segmentation: {{'counts': 'a'}} without size; {allowed}",
        f"phrases.jsonl:9: mask: {{'path': 'm.png', 'values': '3'}}; {allowed}",
        "phrases.jsonl:10: bbox: [1, 2, 3]; a box is [left, top, width, height] in pixels",
        "phrases.jsonl:11: id: '1' stands twice for a.png; an id stands once for an image",
        "phrases.jsonl:12: image: https://example.org/a.png: addresses on a network are not "
        "fetched; download the file and give its path, or give a data: URI; allowed: paths",
        "phrases.jsonl:13: split: 3; a text is needed",
        "phrases.jsonl:14: box and bbox: both given; give one of them",
        f"phrases.jsonl:15: mask: {{'path': 'm.png', 'values': []}}; {allowed}",
        f"phrases.jsonl:16: mask: {{'path': 'm.png', 'values': [-1]}}; {allowed}",
        "phrases.jsonl:17: thing: 'yes'; true or false is needed",
        "phrases.jsonl:17: plural: 'no'; true or false is needed",
    ]


def test_check_reads_every_mask(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    Image.fromarray(blob(1)).save(tmp_path / "good.png")
    Image.fromarray(blob(1).T).save(tmp_path / "turned.png")
    Image.fromarray(np.zeros((HEIGHT, WIDTH), bool)).save(tmp_path / "empty.png")
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (HEIGHT, WIDTH), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.png")
    content = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    short = {"size": [HEIGHT, WIDTH], "counts": [5, 6]}
    masks = ["good.png", "turned.png", "empty.png", "cut.png", "missing.png", short]
    path = listed(
        tmp_path, *({"image": "a.png", "phrase": f"p{i}", "mask": m} for i, m in enumerate(masks))
    )
    report = check(path)
    assert (report.phrases, report.masks) == (6, 1)
    told = [(fault.field, f"{fault.value}; {fault.allowed}") for fault in report.faults]
    assert [field for field, _ in told] == [f"phrases[{index}].mask" for index in range(1, 6)]
    expected = [
        "phrase 'p1': mask of 37 x 23 pixels (height x width), its image has 23 x 37; give",
        "phrase 'p2': mask is empty, none of its 23 x 37 pixels is set; correct",
        f"phrase 'p3': {tmp_path}/cut.png: cannot be decoded, it is truncated or damaged",
        f"phrase 'p4': {tmp_path}/missing.png: does not exist; correct the path",
        "phrase 'p5': mask: run lengths add up to 11 pixels (shortest 5), size 23 x 37 asks for",
    ]
    for (_, found), start in zip(told, expected, strict=True):
        assert found.startswith(start), found


# Worlds written as files, and datasets by configuration


def test_a_world_that_was_written_is_read_back(tmp_path: Path) -> None:
    make("shapes", tmp_path / "world", 6, seed=3, splits=("train",))
    folder = tmp_path / "world"
    phrases = load_dataset(folder / "train.refer.jsonl")
    instances = load_dataset(folder / "train.instances.json")
    assert (phrases.format, instances.format) == ("phrases", "coco_instances")
    assert len(phrases) == len(instances) == 6
    for dataset in (phrases, instances):
        report = check(dataset.path)
        assert report.faults == () and report.masks == report.phrases > 6
    union = [
        np.logical_or.reduce([pixels(sample, i) for i in range(len(sample.phrases))])
        for sample in phrases
    ]
    other = [
        np.logical_or.reduce([pixels(sample, i) for i in range(len(sample.phrases))])
        for sample in instances
    ]
    assert all(np.array_equal(a, b) for a, b in zip(union, other, strict=True))
    for sample in phrases:
        for index, (left, top, right, bottom) in enumerate(sample.truth["boxes"]):
            mask = pixels(sample, index)
            assert mask[top:bottom, left:right].sum() == mask.sum()


def test_datasets_by_configuration(instances: Path) -> None:
    dataset = create_dataset(
        {
            "type": "coco_instances",
            "args": {"data_path": str(instances), "grounding": {"phrase_per": "instance"}},
        }
    )
    assert isinstance(dataset, FileDataset)
    assert said(dataset[0]) == ["dog", "wall", "dog"]


def test_a_file_in_which_nothing_is_left_says_what_was_left_out(instances: Path) -> None:
    tables = {**json.loads(instances.read_text()), "annotations": []}
    with pytest.raises(DataError, match="no sample is left; left out: 3 images without a phrase"):
        load_dataset(written(instances, tables))


# Files in which any one value is something else

JUNK: list[Any] = [None, True, -1, 0, 3.5, "", "x", [], [[]], {}, {"a": 1}, [1, 2, 3, 4], 10**30]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every value inside a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, entry in inner if isinstance(value, dict | list) else ():
        found.append((*path, key))
        found += places(entry, (*path, key)) if isinstance(entry, dict | list) else []
    return found


def replaced(value: Any, path: tuple[Any, ...], junk: Any) -> Any:
    copy = json.loads(json.dumps(value))
    holder = copy
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = junk
    return copy


def drawn_pairs(ways: list[tuple[Any, ...]], count: int = 120) -> list[tuple[Any, Any]]:
    """Return pairs of a place and what stands there instead."""
    pairs = [(way, junk) for way in ways for junk in JUNK]
    chosen = np.random.default_rng(0).permutation(len(pairs))[:count]
    return [pairs[index] for index in chosen]


def read_or_refused(path: Path, **options: Any) -> bool:
    """Read a file and its masks; nothing but an error of data may come out.

    Returns:
        Whether the file was read.
    """
    try:
        dataset = load_dataset(path, **options)
    except DataError as error:
        assert str(error)
        return False
    for sample in dataset:
        for phrase in sample.phrases:
            if phrase.mask is not None:
                try:
                    phrase.mask.read()
                except DataError as error:
                    assert str(error)
    return True


@pytest.mark.parametrize("name", ["instances", "panoptic", "narratives", "refcoco"])
@pytest.mark.parametrize("phrase_per", ["category", "instance"])
def test_any_junk_in_a_file_is_read_or_refused(
    name: str, phrase_per: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(name)
    format = {"instances": "coco_instances", "panoptic": "coco_panoptic"}.get(name, name)
    options = {"format": format, "grounding": GroundingOptions(phrase_per=phrase_per)}  # type: ignore[arg-type]
    pickled = name == "refcoco"
    value = pickle.loads(path.read_bytes()) if pickled else json.loads(path.read_text())
    read = []
    for way, junk in drawn_pairs(places(value)):
        changed = replaced(value, way, junk)
        # Some file systems write a file to the disk when it is emptied; a new one is quick.
        path.unlink()
        if pickled:
            path.write_bytes(pickle.dumps(changed))
        else:
            written(path, changed)
        read.append(read_or_refused(path, **options))
    assert False in read, "some junk must be refused"


def test_any_junk_in_a_list_of_phrases_is_read_or_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    Image.fromarray(blob(1)).save(tmp_path / "m.png")
    size = {"height": HEIGHT, "width": WIDTH}
    records: list[dict[str, Any]] = [
        {"image": "a.png", "phrase": "a", "mask": {"path": "m.png", "values": [1]}, "thing": True},
        {"image": "a.png", "phrase": "b", "segmentation": encode_run_length(blob(2)), "id": "b"},
        {"image": "a.png", "phrase": "c", "segmentation": [[0, 0, 9, 0, 9, 9]], **size},
        {"img_path": "a.png", "expression": "d", "bbox": [1, 2, 3, 4], "split": "train"},
    ]
    read = []
    for number, (way, junk) in enumerate(drawn_pairs(places(records))):
        path = written(tmp_path / f"phrases-{number}.json", replaced(records, way, junk))
        read.append(read_or_refused(path, format="phrases"))
    assert {True, False} == set(read), "some junk must be refused, and some does not matter"


def test_ids_that_stand_twice_are_told(refcoco: Path, instances: Path) -> None:
    references = [reference(1, 70, "train", "a"), reference(1, 70, "train", "b")]
    refcoco.write_bytes(pickle.dumps(references))
    assert faults_of(refcoco) == [
        "refs(unc).p: refs[1].ref_id: 1 stands already at refs[0]; an id stands once"
    ]
    tables = json.loads(instances.read_text())
    tables["annotations"][2]["id"] = 1
    written(instances, tables)
    assert check(instances).faults == (), "names of categories need no ids"
    each = load_dataset(instances, grounding=GroundingOptions(phrase_per="instance"))
    assert len(each[0].phrases) == 2
    (fault,) = phrase_faults(each[0])
    assert "identifier '1' is that of phrases[0]; names are unique" in str(fault)
