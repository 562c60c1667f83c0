"""A world of pairs on disk: the form that users bring, and the same pairs when read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chiasm.core.samples import ImageSource
from chiasm.data.check import check
from chiasm.data.dataset import load_dataset
from chiasm.data.media import load_image
from chiasm.data.pair_controls import ControlledPairs
from chiasm.data.world.occlusion import TRUTHS, OcclusionConfig
from chiasm.data.world.worlds import WORLDS, WorldConfig, WorldDataset
from chiasm.data.world.write import make


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("world") / "occluded"
    summary = make("occluded", path, 20, 3)
    assert summary["counts"] == {"train": 20, "validation": 2, "test": 2, "composition": 2}
    return path


def same(one: ImageSource | None, other: ImageSource | None) -> bool:
    assert one is not None and other is not None
    return np.array_equal(np.asarray(load_image(one)), np.asarray(load_image(other)))


def plain(truth: dict[str, Any]) -> dict[str, Any]:
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in truth.items()}


@pytest.mark.parametrize("split", ["train", "composition"])
def test_what_was_written_reads_back_equal(folder: Path, split: str) -> None:
    read = load_dataset(folder / "pairs.json", split=split)
    drawn = WorldDataset(world="occluded", split=split, seed=3, count=20 if split == "train" else 2)
    assert read.format == "pairs" and len(read) == len(drawn)
    for index in range(len(drawn)):
        one, other = read[index], drawn[index]
        assert one.identifier == f"{split}-{index}"
        assert one.turns == other.turns and one.group == other.group
        assert same(one.images[0], other.images[0])
        assert one.pair is not None and other.pair is not None
        assert same(one.pair.reconstruction, other.pair.reconstruction)
        assert same(one.pair.target, other.pair.target)
        assert one.pair.image_box == other.pair.image_box
        assert one.pair.reconstruction_box == other.pair.reconstruction_box
        assert one.pair.hidden is None
        known = {key: other.truth[key] for key in (*TRUTHS, "kinds", "answers")}
        known["scene"] = json.loads(json.dumps(known["scene"]))
        assert plain(one.truth) == {**plain(known), "split": split}  # type: ignore[arg-type]


def test_the_check_finds_no_fault(folder: Path) -> None:
    report = check(folder / "pairs.json")
    assert report.faults == () and report.pairs == 26 and report.images == 78
    assert sorted(path.name for path in folder.iterdir()) == [
        "images",
        "pairs.json",
        "reconstructions",
        "targets",
        "world.json",
    ]


def test_controls_work_on_what_was_written(folder: Path) -> None:
    read = load_dataset(folder / "pairs.json", split="train")
    drawn = WorldDataset(world="occluded", seed=3, count=20)
    for control in ("shuffled", "mask_known"):
        one = ControlledPairs(read, control)[4].pair
        other = ControlledPairs(drawn, control)[4].pair
        assert one is not None and other is not None
        assert same(one.reconstruction, other.reconstruction)
        if control == "mask_known":
            assert one.hidden is not None and other.hidden is not None
            assert np.array_equal(one.hidden.read(), other.hidden.read())


def test_masks_are_written_where_the_world_tells_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = WorldConfig(
        parts=WORLDS["occluded"].parts, occlusion=OcclusionConfig(hidden=True, boxes=False)
    )
    monkeypatch.setitem(WORLDS, "told", told)
    make("told", tmp_path / "w", 3, splits=("train",))
    read = load_dataset(tmp_path / "w" / "pairs.json")
    assert check(tmp_path / "w" / "pairs.json").faults == ()
    for sample in read:
        assert sample.pair is not None and sample.pair.hidden is not None
        assert sample.pair.image_box is None
        assert np.array_equal(sample.pair.hidden.read(), sample.truth["hidden"])
