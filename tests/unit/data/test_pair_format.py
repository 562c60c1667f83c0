"""The JSON form of pairs: read, checked with every fault at once, and shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from chiasm.cli.main import app
from chiasm.core.errors import DataError
from chiasm.core.samples import Pair, Sample, Turn
from chiasm.data.check import OtherField, Report, check
from chiasm.data.dataset import create_dataset, load_dataset
from chiasm.data.masks import ArrayMask
from chiasm.data.pair_drawing import BOX, HIDDEN, draw_pair
from chiasm.data.prompts import Prompter
from chiasm.data.show import GRID, to_html, to_picture, view
from tests.tiny import picture, tiny_llava

HUMAN = {"from": "human", "value": "<image>\nWhat's the object in the hand?"}
GPT = {"from": "gpt", "value": "The object is banana."}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    picture(23, 29).save(tmp_path / "a.png")
    picture(31, 37).save(tmp_path / "r.png")
    picture(23, 29, seed=2).save(tmp_path / "t.png")
    mask = np.zeros((23, 29), np.uint8)
    mask[3:9, 5:17] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    return tmp_path


def record(**changes: Any) -> dict[str, Any]:
    """A record; fields given as None are left out."""
    fields = {
        "image_orig": "a.png",
        "image_recon": "r.png",
        "conversations": [HUMAN, GPT],
        **changes,
    }
    return {name: value for name, value in fields.items() if value is not None}


EVERYTHING = {
    "occlusion_mask": "m.png",
    "image_target": "t.png",
    "box_orig": [3, 2, 19, 11.5],
    "box_recon": [0, 1, 37, 31],
}


def write(folder: Path, value: Any, name: str = "pairs.json") -> Path:
    lines = value if name.endswith(".jsonl") else [value]
    (folder / name).write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return folder / name


def pair(sample: Sample) -> Pair:
    assert sample.pair is not None
    return sample.pair


@pytest.mark.parametrize("name", ["object", "list", "lines"])
def test_an_object_a_list_and_lines_are_read(folder: Path, name: str) -> None:
    one = record(id="p")
    path = {
        "object": write(folder, one),
        "list": write(folder, [one], "l.json"),
        "lines": write(folder, [one], "l.jsonl"),
    }[name]
    dataset = load_dataset(path)
    (sample,) = dataset
    assert dataset.format == "pairs"
    assert sample.identifier == "p"
    assert sample.images == (folder / "a.png",)
    assert sample.pair == Pair(reconstruction=folder / "r.png")
    assert sample.turns == (
        Turn("user", (0, "What's the object in the hand?")),
        Turn("assistant", ("The object is banana.",), True),
    )


def test_what_is_known_of_a_pair_is_read(folder: Path) -> None:
    (sample,) = load_dataset(write(folder, record(**EVERYTHING, answers=["banana"])))
    found = pair(sample)
    assert found.image_box == (3, 2, 19, 11.5) and found.reconstruction_box == (0, 1, 37, 31)
    assert found.target == folder / "t.png"
    assert found.hidden is not None
    mask = found.hidden.read()
    assert mask.sum() == 72 and mask[3:9, 5:17].all()
    assert sample.truth == {"answers": ["banana"]}


def test_masks_and_truth_may_be_run_lengths(folder: Path) -> None:
    code = {"size": [2, 3], "counts": [1, 2, 3]}
    truth = {"fraction": 0.3, "hidden": code}
    (sample,) = load_dataset(write(folder, record(occlusion_mask=code, truth=truth)))
    hidden = pair(sample).hidden
    expected = np.array([[False, True, False], [True, False, False]])
    assert hidden is not None and np.array_equal(hidden.read(), expected)
    assert sample.truth["fraction"] == 0.3
    assert np.array_equal(sample.truth["hidden"], expected)


def test_paths_start_from_the_media_root(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = write(elsewhere, record(**EVERYTHING))
    (sample,) = load_dataset(path, media_root=folder)
    assert pair(sample).reconstruction == folder / "r.png"
    assert check(path, media_root=folder).faults == ()
    assert {fault.field for fault in check(path).faults} == {
        "image_orig",
        "image_recon",
        "image_target",
    }


def test_a_dataset_by_configuration_may_be_pairs(folder: Path) -> None:
    path = write(folder, record())
    dataset = create_dataset({"type": "pairs", "args": {"data_path": str(path)}})
    assert len(dataset) == 1


def test_other_conversations_are_still_llavas(folder: Path) -> None:
    path = write(folder, {"image": "a.png", "conversations": [HUMAN, GPT]})
    assert load_dataset(path).format == "llava"


def faults(folder: Path, **changes: Any) -> list[tuple[str, str]]:
    report = check(write(folder, [record(id="good", **EVERYTHING), record(id="bad", **changes)]))
    assert all(fault.line for fault in report.faults)
    return [(fault.field, f"{fault.value}; {fault.allowed}") for fault in report.faults]


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"image_orig": None}, "image_orig", "missing; a pair has the picture"),
        ({"image_recon": None}, "image_recon", "missing; a pair has a reconstruction"),
        ({"image_recon": 7}, "image_recon", "7; an image is a path"),
        ({"image_recon": "none.png"}, "image_recon", "none.png: does not exist"),
        ({"image_orig": ["a.png", "r.png"]}, "image_orig", "2 images; a pair has one"),
        ({"image": "a.png"}, "image_orig and image", "both given"),
        ({"image_target": "r.png"}, "image_target", "is 37 x 31 .*; image_orig is 29 x 23; give"),
        ({"box_orig": [0, 0, 29, 24]}, "box_orig", r"\[0.0, .* lies outside; image_orig is 29 x"),
        ({"box_recon": [0, 0, 38, 3]}, "box_recon", "lies outside; image_recon is 37 x 31"),
        ({"box_orig": [5, 0, 3, 3]}, "box_orig", r"\[5, 0, 3, 3\]; a box is \[left"),
        ({"occlusion_mask": "r.png"}, "occlusion_mask", "r.png: a PNG of mode RGB with colours"),
        ({"occlusion_mask": "none.png"}, "occlusion_mask", "none.png: does not exist"),
        ({"occlusion_mask": 3}, "occlusion_mask", "3; a mask is the path of a PNG, white where"),
        (
            {"occlusion_mask": {"size": [2, 3], "counts": [1, 5]}},
            "occlusion_mask",
            "mask of 2 x 3 pixels .* 23 x 29; give the mask",
        ),
        ({"truth": {"hidden": 3}}, "truth.hidden", "; COCO run lengths"),
        (
            {"truth": {"whole": {"size": [2, 3], "counts": [1, 5]}}},
            "truth.whole",
            "a mask of 2 x 3 pixels .*; image_orig has 23 x 29",
        ),
        ({"truth": 3}, "truth", "3; an object with what is known"),
        ({"conversations": [{**HUMAN, "value": "What?"}, GPT]}, "images", "0 placeholder"),
        ({"conversations": [HUMAN]}, "turns", "no supervised turn"),
    ],
    ids=lambda value: "" if not isinstance(value, dict) else "-".join(value),
)
def test_every_fault_is_named(folder: Path, changes: Any, field: str, words: str) -> None:
    found = faults(folder, **changes)
    assert [place for place, _ in found] == [field]
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(found[0][1])


def test_all_faults_come_at_once(folder: Path) -> None:
    wrong = {"image_recon": "none.png", "box_orig": [0, 0, 99, 3], "image_target": "r.png"}
    assert sorted(place for place, _ in faults(folder, **wrong)) == [
        "box_orig",
        "image_recon",
        "image_target",
    ]


def test_a_sound_file_has_no_fault_and_its_pairs_are_counted(folder: Path) -> None:
    host = tiny_llava()
    drawn = record(id="drawn", conversations=[HUMAN], image_target="t.png")
    path = write(folder, [record(id="asked", **EVERYTHING), drawn])
    reports: list[Report] = [
        check(path),
        check(
            path,
            prompter=Prompter(host.tokenizer, host.image_token),
            preparer=host.preparer,
        ),
    ]
    for report in reports:
        assert report.faults == ()
        assert (report.pairs, report.samples, report.images) == (2, 2, 6)
        assert report.document()["pairs"] == 2
    assert len(reports[1].lengths) == 2, "one image a sample is rendered"


def test_fields_that_nothing_reads_are_named_with_the_one_they_are_near_to(folder: Path) -> None:
    own = {"occlusion_masks": "m.png", "photographer": "A. B."}
    records = [record(id="odd", **own), record(id="even", box_original=[0, 0, 9, 9], **own)]
    report = check(write(folder, [*records, record(id="sound", **EVERYTHING)]))
    assert report.faults == () and report.samples == 3
    assert report.other_fields == {
        "box_original": OtherField(1, "box_orig"),
        "occlusion_masks": OtherField(2, "occlusion_mask"),
        "photographer": OtherField(2),
    }
    told = report.document()["other_fields"]
    assert told["box_original"] == {"samples": 1, "near": "box_orig"}
    done = CliRunner().invoke(app, ["data", "check", str(folder / "pairs.json")])
    lines = done.stdout.splitlines()
    assert done.exit_code == 0
    assert lines[-2].endswith("'occlusion_masks' of 2 sample(s); did you mean occlusion_mask?")
    assert lines[-1] == "kept, and read by nothing: field 'photographer' of 2 sample(s)"


def test_an_empty_mask_is_sound(folder: Path) -> None:
    Image.fromarray(np.zeros((23, 29), np.uint8)).save(folder / "black.png")
    assert faults(folder, occlusion_mask="black.png") == []


def test_the_drawing_shows_what_is_hidden_and_the_boxes() -> None:
    mask = np.zeros((23, 29), bool)
    mask[3:9, 5:17] = True
    black = Image.new("RGB", (29, 23))
    known = Pair(
        reconstruction=Image.new("RGB", (37, 31)),
        hidden=ArrayMask(mask),
        image_box=(2.0, 1.0, 20.0, 12.0),
        reconstruction_box=(0.0, 0.0, 37.0, 31.0),
        target=Image.new("RGB", (29, 23), "white"),
    )
    sample = Sample("s", (Turn("user", (0, "?")),), (black,), pair=known)
    drawn = draw_pair(sample, black, lambda source: source)  # type: ignore[arg-type, return-value]
    assert list(drawn) == [f"image, {72 / 667:.1%} hidden", "reconstruction", "target"]
    first, second, third = (np.asarray(image) for image in drawn.values())
    assert (first[mask] == np.array(HIDDEN) // 2).all()
    border = np.ones((11, 18), bool)
    border[1:-1, 1:-1] = False
    box = (first == BOX).all(-1)
    assert np.array_equal(box[1:12, 2:20], border) and box.sum() == border.sum()
    assert (
        (second[0] == BOX).all() and (second[:, -1] == BOX).all() and not second[1:-1, 1:-1].any()
    )
    assert (third == 255).all()
    assert not np.asarray(black).any(), "the image itself is not drawn on"
    bare = Sample("s", sample.turns, sample.images, pair=Pair(known.reconstruction))
    assert list(draw_pair(bare, black, lambda source: source)) == ["image", "reconstruction"]  # type: ignore[arg-type, return-value]
    with pytest.raises(DataError, match="s has no reconstruction to be drawn"):
        draw_pair(Sample("s", sample.turns), black, lambda source: source)  # type: ignore[arg-type, return-value]


def test_a_pair_is_shown_with_all_its_pictures(folder: Path) -> None:
    host = tiny_llava()
    (sample,) = load_dataset(write(folder, record(**EVERYTHING)))
    seen = view(sample, Prompter(host.tokenizer, host.image_token), host.preparer)
    assert seen.captions == ("image, 10.8% hidden", "reconstruction", "target")
    assert len(seen.images) == 3
    assert sum(piece.kind == "image" for piece in seen.pieces) == 1
    page = to_html(seen)
    assert page.count("<figure>") == 3 and "<figcaption>reconstruction</figcaption>" in page
    for image in seen.images:
        assert (np.asarray(image) == GRID).all(-1).any(), "each with the host's cells"
    sheet = to_picture(seen)
    assert sheet.width > sum(image.width for image in seen.images)
