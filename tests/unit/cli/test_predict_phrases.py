"""`chiasm predict --input` over files of phrases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from chiasm.cli.main import app
from chiasm.core.run_length import decode_run_length
from tests.unit.inference.duals import build_dual
from tests.unit.inference.pointers import build_pointer, scene


@pytest.fixture
def models() -> dict[str, Any]:
    return {"pointer": build_pointer(), "dual": build_dual()}


@pytest.fixture
def run(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("chiasm.recipes.loading.load_run", models.__getitem__)

    def invoke(name: str, file: Path, *arguments: Any) -> Any:
        words = ["predict", name, "--input", str(file), *map(str, arguments), "--device", "cpu"]
        return CliRunner().invoke(app, words, catch_exceptions=False)

    return invoke


def write(folder: Path, records: list[Any]) -> Path:
    scene().save(folder / "a.png")
    scene(47, 97).save(folder / "b.png")
    scene(3, 1206).save(folder / "wide.png")
    file = folder / "phrases.jsonl"
    file.write_text("\n".join(map(json.dumps, records)) + "\n", encoding="utf-8")
    return file


RECORDS = [
    {"id": "one", "image": "a.png", "phrases": ["the red bar", "a green ball"]},
    {"id": "two", "image": "a.png", "phrase": "the blue block"},
    {"image": "b.png", "expression": "red"},
]


def test_each_record_gets_its_masks_and_each_picture_is_read_once(
    run: Any, tmp_path: Path, models: dict[str, Any]
) -> None:
    output = tmp_path / "found"
    done = run("pointer", write(tmp_path, RECORDS), "--output", output, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "count": 3,
        "faulty": 0,
        "files": [str(output / "predictions.jsonl")],
    }
    lines = (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    one, two, three = map(json.loads, lines)
    assert [one["id"], two["id"], three["id"]] == ["one", "two", "phrases.jsonl:3"]
    assert [mask["phrase"] for mask in one["masks"]] == ["the red bar", "a green ball"]
    assert [mask["area"] for mask in one["masks"]] == [551, 0]
    assert decode_run_length(two["masks"][0]["rle"]).sum() == 336
    assert three["masks"][0]["rle"]["size"] == [47, 97]
    assert len(models["pointer"].read) == 2
    assert "pointing: 3 of 3 records" in done.stderr


def test_the_head_may_be_named_and_lines_go_to_standard_output(run: Any, tmp_path: Path) -> None:
    file = write(tmp_path, RECORDS)
    done = run("pointer", file, "--mask", "coarse")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 3 and lines[0]["masks"][0]["area"] > 551
    wrong = run("pointer", file, "--mask", "best")
    assert wrong.exit_code == 1 and "mask 'best' is not one of" in wrong.stderr


def test_sets_for_grounding_are_asked_without_their_masks(run: Any, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    mask = np.zeros((61, 83), np.uint8)
    mask[2:5] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    records = [
        {"image": "a.png", "phrase": "the red bar", "mask": "mask.png"},
        {"image": "a.png", "phrase": "the blue block", "mask": "mask.png"},
    ]
    write(folder, records)
    done = run("pointer", folder, "--json")
    assert done.exit_code == 0, done.output
    (prediction,) = json.loads(done.stdout)["predictions"]
    assert [mask["area"] for mask in prediction["masks"]] == [551, 336]


def test_a_set_in_one_file_is_known_by_its_content(run: Any, tmp_path: Path) -> None:
    scene().save(tmp_path / "a.png")
    made = {
        "images": [{"id": 7, "file_name": "a.png", "height": 61, "width": 83}],
        "categories": [{"id": 3, "name": "red bar"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 7,
                "category_id": 3,
                "segmentation": [[13, 11, 42, 11, 42, 30, 13, 30]],
                "iscrowd": 0,
            }
        ],
    }
    file = tmp_path / "things.json"
    file.write_text(json.dumps(made), encoding="utf-8")
    done = run("pointer", file, "--json")
    assert done.exit_code == 0, done.output
    (prediction,) = json.loads(done.stdout)["predictions"]
    assert [(mask["phrase"], mask["area"]) for mask in prediction["masks"]] == [("red bar", 551)]


FAULTY = [
    {"image": "a.png", "phrase": "red"},
    {"image": "a.png", "phrases": []},
    {"image": "a.png", "phrases": ["red", " "]},
    {"phrase": "red"},
    {"image": "gone.png", "phrase": "red"},
    {"image": "http://somewhere/a.png", "phrase": "red"},
    {"image": "a.png", "phrases": ["red", "a <|image_pad|>"]},
    {"image": "wide.png", "phrase": "red"},
    {"id": "phrases.jsonl:1", "image": "a.png", "phrase": "red"},
]


def test_faults_are_told_at_once_before_any_mask(
    run: Any, tmp_path: Path, models: dict[str, Any]
) -> None:
    output = tmp_path / "found"
    done = run("pointer", write(tmp_path, FAULTY), "--output", output)
    assert (done.exit_code, done.stdout) == (1, "")
    places = [done.stderr.index(f"phrases.jsonl:{line}: ") for line in range(2, 10)]
    assert places == sorted(places)
    for words in (
        "phrases: []",
        "image: None; a path is needed",
        "gone.png: does not exist",
        "http://somewhere/a.png: addresses on a network are not fetched",
        "holds '<|image_pad|>', a special token of the host",
        "(1206 x 3): absolute aspect ratio must be smaller than 200",
        "id: 'phrases.jsonl:1' stands already at",
    ):
        assert words in done.stderr
    assert models["pointer"].read == [] and not output.exists()


def test_faulty_records_are_skipped_on_request(run: Any, tmp_path: Path) -> None:
    done = run("pointer", write(tmp_path, FAULTY), "--skip-faulty", "--json")
    document = json.loads(done.stdout)
    assert (document["count"], document["faulty"]) == (1, 8)
    assert [prediction["id"] for prediction in document["predictions"]] == ["phrases.jsonl:1"]
    assert done.stderr.count("skipped: ") == 8
    nothing = run("pointer", write(tmp_path, FAULTY[1:2]), "--skip-faulty")
    assert nothing.exit_code == 1
    assert "no record with phrases can be pointed at" in nothing.stderr


def test_a_model_that_does_not_point(run: Any, tmp_path: Path) -> None:
    done = run("dual", write(tmp_path, RECORDS))
    assert (done.exit_code, done.stdout) == (1, "")
    assert "this model has no 'point'" in done.stderr


def test_media_root(run: Any, tmp_path: Path) -> None:
    file = write(tmp_path, RECORDS)
    (tmp_path / "deep").mkdir()
    moved = file.rename(tmp_path / "deep" / "phrases.jsonl")
    assert run("pointer", moved).exit_code == 1
    assert run("pointer", moved, "--media-root", tmp_path).exit_code == 0
    wrong = run("pointer", moved, "--media-root", tmp_path / "none")
    assert wrong.exit_code == 1 and "is not a folder" in wrong.stderr
