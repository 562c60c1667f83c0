"""Which sample stands where: stages one after the other, each from the start of its own mixture."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import Qwen2VLImageProcessor

from chiasm.core.errors import ConfigError, DataError
from chiasm.core.samples import Phrase, Sample, Turn
from chiasm.data.masks import ArrayMask
from chiasm.data.media import load_image
from chiasm.data.mixture import Mixture
from chiasm.language.hosts.qwen_images import QwenImages
from chiasm.recipes.data_choice import Source
from chiasm.recipes.sources import (
    Shrunk,
    StagedSamples,
    build_mixture,
    list_samples,
    located,
)
from tests.recipes.small import write_questions
from tests.tiny import picture, tiny_qwen2_5_vl


class Named:
    """Samples that know their place."""

    def __init__(self, name: str, count: int) -> None:
        self.name, self.count = name, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return Sample(f"{self.name}{index}", (Turn("user", ("?",)), Turn("assistant", ("!",))))


def mixture(name: str, count: int, seed: int = 0) -> Mixture:
    return Mixture({name: Named(name, count)}, None, seed=seed)


def test_each_stage_reads_its_own_mixture_from_its_start() -> None:
    parts = [mixture("a", 5), mixture("b", 3, 1), mixture("c", 7, 2)]
    staged = StagedSamples(parts, [4, 8, 3])
    assert len(staged) == 15
    found = [staged[position].identifier for position in range(15)]
    assert found[:4] == [parts[0].sample_at(i).identifier for i in range(4)]
    assert found[4:12] == [parts[1].sample_at(i).identifier for i in range(8)]
    assert found[12:] == [parts[2].sample_at(i).identifier for i in range(3)]
    # A stage longer than its data goes round, each pass once through all.
    assert sorted(found[4:7]) == sorted(found[7:10]) == ["b0", "b1", "b2"]


def test_positions_beyond_the_plan_go_on_in_the_last_stage() -> None:
    """A dataset of which more is read than planned must not fall back to an earlier stage."""
    staged = StagedSamples([mixture("a", 5), mixture("b", 3)], [2, 2])
    assert staged[5].identifier == mixture("b", 3).sample_at(3).identifier


def test_sources_are_mixed_by_weight_or_by_size(tmp_path: Path) -> None:
    for name, count in (("one", 2), ("two", 6)):
        write_questions(tmp_path / f"{name}.json", count)
    preparer = tiny_qwen2_5_vl().preparer

    def share(*weights: float | None) -> float:
        sources = [
            Source(path=f"{name}.json", weight=weight)
            for name, weight in zip(("one", "two"), weights, strict=True)
        ]
        mixed = build_mixture(sources, preparer, tmp_path, seed=3)
        origins = [mixed.sample_at(index).origin for index in range(400)]
        return sum("one.json" in origin for origin in origins) / 400

    assert share(None, None) == pytest.approx(0.25, abs=0.02)
    assert share(3, 1) == pytest.approx(0.75, abs=0.02)
    with pytest.raises(ConfigError, match=r"sources \['0: one.json'\] have no weight while others"):
        share(None, 1)


def test_counts_cut_a_file_at_its_start(tmp_path: Path) -> None:
    write_questions(tmp_path / "one.json", 5)
    preparer = tiny_qwen2_5_vl().preparer
    sources = [Source(path="one.json", count=2), Source(world="shapes", count=3, questions=1)]
    samples = list_samples(sources, preparer, tmp_path)
    assert len(samples) == 5
    texts = [str(turn.parts[-1]) for sample in samples[:2] for turn in sample.turns]
    assert texts[1::2] == ["thing 0", "thing 1"]


def test_a_world_without_questions_gives_pictures_and_dense_labels() -> None:
    processor = Qwen2VLImageProcessor(
        patch_size=4, merge_size=2, size={"shortest_edge": 64, "longest_edge": 112 * 112}
    )
    preparer = QwenImages(processor, patch=4, merge=2)
    (sample,) = list_samples(
        [Source(world="shapes", count=1, questions=0, dense=True)], preparer, Path()
    )
    assert [turn.role for turn in sample.turns] == ["user"]
    geometry = preparer.prepare([load_image(sample.images[0])]).geometries[0]
    assert {labels.shape for labels in sample.truth["cells"].values()} == {
        (geometry.rows, geometry.columns)
    }


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing.json"):
        list_samples([Source(path="nothing.json")], tiny_qwen2_5_vl().preparer, tmp_path)


def test_smaller_pictures_have_smaller_masks_and_boxes() -> None:
    (whole,) = list_samples([Source(world="shapes", count=1, phrases=3)], None, Path())
    (small,) = list_samples([Source(world="shapes", count=1, phrases=3, shrink=2)], None, Path())
    picture, smaller = (load_image(one.images[0]) for one in (whole, small))
    assert smaller.size == (picture.width // 2, picture.height // 2)
    assert small.turns == whole.turns and len(small.phrases) == len(whole.phrases) > 0
    for one, other in zip(whole.phrases, small.phrases, strict=True):
        assert one.mask is not None and other.mask is not None
        mask, less = one.mask.read(), other.mask.read()
        assert less.dtype == np.bool_ and less.shape == smaller.size[::-1]
        shares = mask.reshape(less.shape[0], 2, less.shape[1], 2).mean((1, 3))
        assert np.array_equal(less, shares >= 0.5)
        assert replace(one, mask=None) == replace(other, mask=None)
    boxes = [[2 * side for side in box] for box in small.truth["boxes"]]
    assert boxes == whole.truth["boxes"]
    assert whole.truth["referred"] == small.truth["referred"]


class One:
    """One sample."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        return self.sample


def test_a_thin_mask_is_not_lost_when_it_is_made_smaller() -> None:
    mask = np.zeros((6, 9), np.bool_)
    mask[4, 1:5] = True
    phrase = Phrase(turn=1, start=0, stop=1, mask=ArrayMask(mask), identifier="hair")
    image = Image.new("RGB", (9, 6))
    turns = (Turn("user", (0, "?")), Turn("assistant", ("x",)))
    sample = Sample("a", turns, (image,), truth={"boxes": []}, phrases=(phrase,))
    shrunk = Shrunk(One(sample), 3)[0]
    (found,) = shrunk.phrases
    assert found.mask is not None
    assert found.mask.read().tolist() == [[False, False, False], [True, True, False]]
    nothing = replace(phrase, mask=ArrayMask(np.zeros((6, 9), np.bool_)))
    (empty,) = Shrunk(One(replace(sample, phrases=(nothing,))), 3)[0].phrases
    assert empty.mask is not None and not empty.mask.read().any()


@pytest.mark.parametrize("dense", [True, False])
def test_dense_labels_lie_on_the_grid_of_the_smaller_picture(dense: bool) -> None:
    processor = Qwen2VLImageProcessor(
        patch_size=4, merge_size=2, size={"shortest_edge": 64, "longest_edge": 112 * 112}
    )
    preparer = QwenImages(processor, patch=4, merge=2)
    source = Source(world="shapes", count=1, questions=0, dense=dense, shrink=2)
    (sample,) = list_samples([source], preparer, Path())
    geometry = preparer.prepare([load_image(sample.images[0])]).geometries[0]
    assert geometry.original_height < 112
    shapes = {labels.shape for labels in sample.truth.get("cells", {}).values()}
    assert shapes == ({(geometry.rows, geometry.columns)} if dense else set())
    if dense:
        with pytest.raises(ConfigError, match="world 'shapes': `dense` labels lie on a host's"):
            list_samples([source], None, Path())


def write_refcoco(folder: Path, splits: Sequence[str]) -> None:
    """Write RefCOCO with one picture and one object of two expressions for each split given."""
    (folder / "images").mkdir(exist_ok=True)
    images, annotations, references = [], [], []
    for index, split in enumerate(splits):
        picture(31, 43, index).save(folder / "images" / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.png", "height": 31, "width": 43})
        box = [[1.0, 1.0, 20.0, 1.0, 20.0, 9.0]]
        own = {"id": index, "image_id": index, "category_id": 3}
        annotations.append({**own, "segmentation": box, "bbox": [1, 1, 19, 8], "iscrowd": 0})
        sentences = [{"sent": text, "raw": text, "sent_id": 1} for text in ("dog", "left one")]
        keys = {"ref_id": index, "ann_id": index, "image_id": index, "category_id": 3}
        references.append({**keys, "split": split, "sent_ids": [0, 1], "sentences": sentences})
    tables = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 3, "name": "dog"}],
    }
    (folder / "instances.json").write_text(json.dumps(tables), encoding="utf-8")
    (folder / "refs(unc).p").write_bytes(pickle.dumps(references, 2))


def source(**more: Any) -> Source:
    return Source(path="refs(unc).p", **more)


def test_a_split_is_that_of_the_files_records(tmp_path: Path) -> None:
    """And where nothing is said all of a file is read, and the first part of a world."""
    write_refcoco(tmp_path, ["train", "val", "train"])
    counts = {
        split: len(list_samples([source(split=split)], None, tmp_path))
        for split in (None, "train", "val")
    }
    assert counts == {None: 3, "train": 2, "val": 1}
    with pytest.raises(DataError, match="no record of split 'test'; it has: train, val"):
        list_samples([source(split="test")], None, tmp_path)
    (plain,) = list_samples([Source(world="shapes", count=1)], None, tmp_path)
    assert "/train/" in plain.identifier


def test_how_a_file_of_phrases_is_read_is_said_in_the_recipe(tmp_path: Path) -> None:
    write_refcoco(tmp_path, ["val"])
    (first,) = list_samples([source()], None, tmp_path)
    assert len(first.phrases) == 1 and not first.turns[1].supervised
    options = {"sentences": "all", "phrases_per_sample": 1, "supervise": True}
    every = list_samples([source(grounding=options)], None, tmp_path)
    assert len(every) == 2 and all(sample.turns[1].supervised for sample in every)


def test_the_panoptic_file_is_found_from_where_the_recipe_starts(tmp_path: Path) -> None:
    given = Source(path="x.json", grounding={"panoptic": "there/panoptic.json"})
    assert given.grounding.panoptic == Path("there/panoptic.json")
    assert located(given.grounding, tmp_path).panoptic == tmp_path / "there" / "panoptic.json"
    assert located(Source(path="x.json").grounding, tmp_path).panoptic is None
