"""Worlds as files: readable back, equal to the dataset, complete or absent."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from chiasm.core.errors import InputError, UnknownNameError
from chiasm.data.world import write
from chiasm.data.world.sampling import SPLITS
from chiasm.data.world.worlds import WORLDS, WorldDataset, draw

COUNT = 13

# Decoding in pycocotools calls numpy in the way of numpy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "made" / "here"
    write.make("shapes_and_grain", folder, COUNT, seed=5)
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def decode(code: dict[str, Any]) -> np.ndarray:
    return coco_mask.decode({**code, "counts": code["counts"].encode()}).astype(bool)


def test_conversations_equal_the_dataset(folder: Path) -> None:
    for split in SPLITS:
        records = lines(folder / f"{split}.jsonl")
        assert len(records) == (COUNT if split == "train" else 1)
        dataset = WorldDataset(world="shapes_and_grain", split=split, seed=5, count=COUNT)
        for index, record in enumerate(records):
            sample = dataset[index]
            user, assistant = record["messages"]
            image, text = user["content"]
            assert image == {"type": "image", "image": f"images/{split}/{index}.png"}
            assert text == {"type": "text", "text": sample.turns[0].text}
            assert assistant == {"role": "assistant", "content": sample.turns[1].text}
            assert record["answers"] == sample.truth["answers"]
            assert record["group"] == sample.group
            with Image.open(folder / image["image"]) as picture:
                assert np.array_equal(np.asarray(picture), sample.images[0])


def test_identifiers_and_pictures_are_unique_over_splits(folder: Path) -> None:
    identifiers = [record["id"] for split in SPLITS for record in lines(folder / f"{split}.jsonl")]
    assert len(set(identifiers)) == len(identifiers)
    pictures = [path.read_bytes() for path in sorted(folder.glob("images/*/*"))]
    assert len(set(pictures)) == len(pictures) == COUNT + 3


def test_instances_are_coco(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = COCO(str(folder / "train.instances.json"))
    capsys.readouterr()
    assert len(coco.imgs) == COUNT
    assert len(set(coco.getAnnIds())) == len(coco.dataset["annotations"])
    for index in range(COUNT):
        item = draw(WORLDS["shapes_and_grain"], "train", 5, index)
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[index]))
        assert len(annotations) == len(item.scene.things)
        for place, annotation in enumerate(annotations):
            visible = coco.annToMask(annotation).astype(bool)
            assert np.array_equal(visible, item.rendering.visible[place])
            assert np.array_equal(
                decode(annotation["whole_segmentation"]), item.rendering.whole[place]
            )
            assert annotation["area"] == visible.sum()
            assert annotation["bbox"] == coco_mask.toBbox(annotation["segmentation"]).tolist()
            (category,) = coco.loadCats([annotation["category_id"]])
            assert category["name"] == item.scene.things[place].shape


def test_phrases_point_at_masks(folder: Path) -> None:
    masks = {
        tuple(annotation["segmentation"]["counts"])
        for annotation in json.loads((folder / "train.instances.json").read_text())["annotations"]
    }
    records = lines(folder / "train.refer.jsonl")
    assert len(records) == len(masks)
    assert len({record["id"] for record in records}) == len(records)
    for record in records:
        assert tuple(record["segmentation"]["counts"]) in masks
        assert decode(record["segmentation"]).shape == (112, 112)
        assert (folder / record["image"]).is_file()
        assert record["phrase"].startswith("the ")


def test_captions(folder: Path) -> None:
    records = json.loads((folder / "validation.captions.json").read_text())
    assert [record["image_path"] for record in records] == ["images/validation/0.png"]
    ((turn,),) = (record["conversations"] for record in records)
    assert turn["role"] == "assistant"
    assert " at the " in turn["content"]


def test_the_summary_says_what_was_made(folder: Path, tmp_path: Path) -> None:
    written = json.loads((folder / "world.json").read_text())
    assert written["name"] == "shapes_and_grain"
    assert written["seed"] == 5
    assert written["counts"] == {"train": COUNT, "validation": 1, "test": 1, "composition": 1}
    assert len(written["config"]["parts"]) == 2
    returned = write.make("single", tmp_path / "one", 1, splits=("test",))
    assert returned["counts"] == {"test": 1}
    assert returned["output"] == str(tmp_path / "one")


def test_same_seed_same_bytes(folder: Path, tmp_path: Path) -> None:
    write.make("shapes_and_grain", tmp_path / "again", COUNT, seed=5)
    for path in sorted(folder.rglob("*")):
        again = tmp_path / "again" / path.relative_to(folder)
        assert again.is_dir() if path.is_dir() else again.read_bytes() == path.read_bytes()


def test_several_questions_make_several_turns(tmp_path: Path) -> None:
    write.make("shapes", tmp_path / "w", 2, splits=("train",), questions_per_image=3)
    for record in lines(tmp_path / "w" / "train.jsonl"):
        assert [message["role"] for message in record["messages"]] == ["user", "assistant"] * 3
        assert len(record["answers"]) == 3
        images = [p for m in record["messages"][::2] for p in m["content"] if p["type"] == "image"]
        assert len(images) == 1


def test_progress_counts_every_scene(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    write.make("single", tmp_path / "w", 20, progress=lambda *step: told.append(step))
    assert told == [(done, 26) for done in range(1, 27)]


def test_a_folder_in_use_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="is not an empty folder; name another folder"):
        write.make("single", tmp_path, 1)
    with pytest.raises(InputError, match="is not an empty folder"):
        write.make("single", tmp_path / "mine.txt", 1)
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write.make("single", tmp_path / "empty", 1)
    assert (tmp_path / "empty" / "world.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["empty"], "nothing is left beside it"


def test_interrupted_work_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write.make("single", tmp_path / "w", 5, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="world 'shapez'"):
        write.make("shapez", tmp_path / "w", 1)
    with pytest.raises(UnknownNameError, match="split 'dev'"):
        write.make("single", tmp_path / "w", 1, splits=("dev",))
    with pytest.raises(InputError, match="count=0"):
        write.make("single", tmp_path / "w", 0)
    assert list(tmp_path.iterdir()) == []
