"""`chiasm predict --phrase`: masks on screen, as JSON and in files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from chiasm.cli.main import app
from chiasm.cli.predict_masks import mask_name
from chiasm.core.run_length import decode_run_length
from tests.unit.inference.duals import build_dual
from tests.unit.inference.pointers import Pointer, build_pointer, scene


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {
        "pointer": build_pointer(),
        "coarse": Pointer(heads=("coarse",)),
        "dual": build_dual(),
    }


@pytest.fixture
def run(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("chiasm.recipes.loading.load_run", models.__getitem__)

    def invoke(*arguments: Any) -> Any:
        words = ["predict", *map(str, arguments), "--device", "cpu"]
        return CliRunner().invoke(app, words, catch_exceptions=False)

    return invoke


@pytest.fixture
def image(tmp_path: Path) -> Path:
    scene().save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


PHRASES = ["--phrase", "the red bar", "--phrase", "a green ball"]


def test_masks_on_screen(run: Any, image: Path) -> None:
    done = run("pointer", "--image", image, *PHRASES)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "the red bar: 551 pixels (10.9%) in x 13 to 42, y 11 to 30, score 0.750",
        "a green ball: nothing found, score 0.000",
    ]


def test_masks_as_one_document(run: Any, image: Path) -> None:
    document = json.loads(run("pointer", "--image", image, *PHRASES, "--json").stdout)
    assert [mask["phrase"] for mask in document["masks"]] == PHRASES[1::2]
    found = decode_run_length(document["masks"][0]["rle"])
    assert found.shape == (61, 83) and int(found.sum()) == document["masks"][0]["area"] == 551
    assert document["masks"][1]["box"] is None
    coarse = run("pointer", "--image", image, *PHRASES, "--json", "--mask", "coarse")
    assert json.loads(coarse.stdout)["masks"][0]["area"] > 551


def test_masks_in_files(run: Any, image: Path, tmp_path: Path) -> None:
    output = tmp_path / "found"
    done = run("pointer", "--image", image, *PHRASES, "--output", output, "--json")
    names = [
        "predictions.jsonl",
        "mask-1-the-red-bar.png",
        "mask-2-a-green-ball.png",
        "masks.json",
        "overlay.png",
    ]
    assert json.loads(done.stdout)["files"] == [str(output / name) for name in names]
    assert sorted(path.name for path in output.iterdir()) == sorted(names)
    with Image.open(output / names[1]) as drawn:
        assert (drawn.mode, drawn.size) == ("L", (83, 61))
        pixels = np.asarray(drawn)
    red, green = json.loads((output / "masks.json").read_text(encoding="utf-8"))
    assert np.array_equal(pixels == 255, decode_run_length(red["rle"]))
    assert set(np.unique(pixels)) == {0, 255}
    with Image.open(output / names[2]) as drawn:
        assert not np.asarray(drawn).any()
    assert (green["phrase"], green["area"]) == ("a green ball", 0)
    with Image.open(output / "overlay.png") as overlay:
        assert overlay.width == 83 and overlay.height > 61
    (line,) = (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["id"] == "scene.png"
    assert [mask["phrase"] for mask in json.loads(line)["masks"]] == PHRASES[1::2]


def test_question_and_phrases_together(run: Any, image: Path) -> None:
    words = ["--ask", "What is it?", "--max-new-tokens", 3, *PHRASES, "--json"]
    document = json.loads(run("pointer", "--image", image, *words).stdout)
    assert document["text"] and len(document["masks"]) == 2


FAULTS = [
    ("dual", ["--phrase", "red"], "this model has no 'point'; it has ask, image."),
    ("pointer", ["--phrase", " "], "phrase 0 is ' '; each phrase names what to look for"),
    ("coarse", ["--phrase", "red", "--mask", "refined"], "mask 'refined' is not one of"),
    ("pointer", ["--phrase", "red", "--mask", "best"], "this model's: coarse, refined"),
]


@pytest.mark.parametrize(("name", "words", "message"), FAULTS)
def test_faults_are_told_before_any_file(
    run: Any, image: Path, tmp_path: Path, name: str, words: list[str], message: str
) -> None:
    done = run(name, "--image", image, *words, "--output", tmp_path / "out")
    assert (done.exit_code, done.stdout) == (1, "")
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


WRONG = [
    (["--phrase", "red"], "--phrase: needs --image FILE"),
    (["--image", "a.png", "--ask", "x", "--mask", "coarse"], "--mask: goes with --phrase,"),
    (["--ask", "x", "--extractor", "rules"], "--extractor: goes with --ground"),
    (["--ask", "x", "--media-root", "."], "--media-root: goes with --input"),
    (["--ask", "x", "--format", "llava"], "--format: goes with --input"),
    (["--ask", "x", "--skip-faulty"], "--skip-faulty: goes with --input"),
    (["--ask", "x", "--domain", "news"], "--domain: goes with --video"),
    (
        ["--video", "a.mp4", "--benchmark", "--domain", "news"],
        "--domain: goes with --video, and without --benchmark",
    ),
    (
        ["--image", "a.png", "--ask", "x", "--chain-of-thought", "object", "--temperature", "1"],
        "--temperature: a closer look answers greedily",
    ),
    (["--ask", "x", "--seed", str(2**63)], "'--seed'"),
]


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_an_option_that_nothing_would_read_is_wrong_usage(
    run: Any, words: list[str], message: str
) -> None:
    done = run("pointer", *words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in " ".join(done.stderr.split())


def test_what_an_earlier_prediction_left_is_named(run: Any, image: Path, tmp_path: Path) -> None:
    output = tmp_path / "found"
    first = run("pointer", "--image", image, *PHRASES, "--output", output)
    assert "still holds" not in first.stderr
    (output / "mine.txt").write_text("x", encoding="utf-8")
    again = run("pointer", "--image", image, "--phrase", "a green ball", "--output", output)
    told = f"{output} still holds, of an earlier prediction: "
    assert f"{told}mask-1-the-red-bar.png, mask-2-a-green-ball.png\n" in again.stderr
    assert (output / "mask-1-the-red-bar.png").exists()


def test_a_file_that_cannot_be_written_is_told(run: Any, image: Path, tmp_path: Path) -> None:
    (tmp_path / "found" / "masks.json").mkdir(parents=True)
    done = run("pointer", "--image", image, *PHRASES, "--output", tmp_path / "found")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "a result cannot be written" in done.stderr


@pytest.mark.parametrize(
    ("phrase", "name"),
    [
        ("The red, red Bar!", "mask-3-the-red-red-bar.png"),
        ("../../etc", "mask-3-etc.png"),
        ("\N{HIRAGANA LETTER A}", "mask-3.png"),
        ("a" * 90, f"mask-3-{'a' * 40}.png"),
    ],
)
def test_names_of_masks_are_safe(phrase: str, name: str) -> None:
    assert mask_name(2, phrase) == name
