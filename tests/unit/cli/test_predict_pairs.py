"""`chiasm predict` on pairs: one pair, a file of pairs, sheets, self-check and wrong usage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from chiasm.cli.main import app
from chiasm.inference.session import Session
from tests.tiny import picture
from tests.unit.inference.duals import build_dual
from tests.unit.inference.pair_models import IMAGE, build_pair_model, hidden, rendered

QUESTION = "What is hidden?"
SHORT = ["--max-new-tokens", "5"]


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {
        "pair": build_pair_model(),
        "silent": build_pair_model(None),
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
def given(tmp_path: Path) -> list[Any]:
    IMAGE.save(tmp_path / "scene.png")
    rendered().save(tmp_path / "rebuilt.png")
    Image.fromarray(hidden().astype(np.uint8) * 255).save(tmp_path / "mask.png")
    return ["--image", tmp_path / "scene.png", "--reconstruction", tmp_path / "rebuilt.png"]


@pytest.fixture
def pairs(given: list[Any], tmp_path: Path) -> Path:
    """Two pairs in the source's form, the second without mask."""
    conversation = [
        {"from": "human", "value": f"<image>\n{QUESTION}"},
        {"from": "gpt", "value": "The object is banana."},
    ]
    first = {
        "id": "a/first one.png",
        "image_orig": "scene.png",
        "image_recon": "rebuilt.png",
        "occlusion_mask": "mask.png",
        "conversations": conversation,
    }
    second = {key: value for key, value in first.items() if key != "occlusion_mask"} | {"id": "b"}
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in (first, second)))
    return file


def test_one_pair(run: Any, given: list[Any], tmp_path: Path, models: dict[str, Any]) -> None:
    output = tmp_path / "seen"
    words = ["--mask", tmp_path / "mask.png", "--ask", QUESTION, "--complete", "--self-check"]
    drawing = ["--drawing-temperature", "0", "--output", output]
    done = run("pair", *given, *words, *drawing, "--json", *SHORT)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    session = Session(models["pair"])
    session.set(image=given[1], reconstruction=given[3], mask=tmp_path / "mask.png")
    answer = session.ask(QUESTION, max_new_tokens=5)
    found = session.complete(QUESTION, max_new_tokens=5, temperature=0)
    expected = json.loads(json.dumps(answer.document(maps=False)))
    assert {key: document[key] for key in expected} == expected
    assert document["self_check"] == json.loads(
        json.dumps(session.self_check(QUESTION, max_new_tokens=5).document())
    )
    names = ["predictions.jsonl", "sheet.png", "completed.png"]
    assert document["files"] == [str(output / name) for name in names]
    assert document["image"] == str(output / "completed.png")
    with Image.open(output / "completed.png") as drawn:
        assert np.array_equal(np.asarray(drawn), np.asarray(found.image))
    (line,) = (output / names[0]).read_text(encoding="utf-8").splitlines()
    saved = json.loads(line)
    assert (saved["id"], saved["text"], saved["image"]) == (
        "scene.png",
        answer.text,
        document["image"],
    )


def test_one_pair_for_people(run: Any, given: list[Any]) -> None:
    boxes = ["--image-box", "10,5,30,25", "--reconstruction-box", "3,4,20,40"]
    done = run("pair", *given, *boxes, "--ask", QUESTION, "--self-check", *SHORT)
    assert done.exit_code == 0, done.output
    assert "box in the original: 10, 5, 30, 25 (given)" in done.stdout
    assert "alpha, the original's share: whole 0." in done.stdout
    assert "log-probability of yes -" in done.stdout
    assert "cut off after 5 tokens" in done.stderr


def test_drawing_repeats_with_its_seed(run: Any, given: list[Any], tmp_path: Path) -> None:
    def drawn(seed: int) -> bytes:
        words = ["--complete", "--seed", seed, "--output", tmp_path, "--max-new-tokens", "1"]
        assert run("pair", *given, *words).exit_code == 0
        return (tmp_path / "completed.png").read_bytes()

    assert drawn(3) == drawn(3) != drawn(4)


def test_a_sampled_file_is_the_same_in_batches_of_any_size(
    run: Any, pairs: Path, tmp_path: Path
) -> None:
    def sampled(size: int) -> tuple[list[str], list[Any]]:
        output = tmp_path / str(size)
        words = ["--complete", "--temperature", "1.5", "--seed", "7", "--batch-size", size]
        done = run("pair", "--input", pairs, *words, "--output", output, *SHORT)
        assert done.exit_code == 0, done.output
        told = (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        drawn = [Image.open(path) for path in sorted((output / "completed").iterdir())]
        return [json.loads(line)["text"] for line in told], [np.asarray(one, int) for one in drawn]

    (texts, pictures), (others, drawn) = sampled(1), sampled(2)
    assert texts == others
    for one, other in zip(pictures, drawn, strict=True):
        # Of the same codes; convolutions of another batch size may round to the next step.
        assert np.abs(one - other).max() <= 1


def test_a_file_of_pairs(run: Any, pairs: Path, tmp_path: Path, models: dict[str, Any]) -> None:
    output = tmp_path / "all"
    words = ["--complete", "--drawing-temperature", "0", "--batch-size", "1", "--output", output]
    done = run("pair", "--input", pairs, *words, "--json", *SHORT)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["count"] == 2
    lines = (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    first, second = (json.loads(line) for line in lines)
    assert (first["id"], second["id"]) == ("a/first one.png", "b")
    assert first["pair"]["rules"]["original"] == "mask"
    assert second["pair"]["rules"]["original"] == "identity"
    assert first["image"] == str(output / "completed" / "00001-first-one.png")
    assert second["sheet"] == str(output / "sheets" / "00002-b.png")
    for line in (first, second):
        with Image.open(line["image"]) as drawn, Image.open(line["sheet"]) as sheet:
            assert drawn.size == IMAGE.size and sheet.width > 900
    session = Session(models["pair"])
    session.set(image=IMAGE, reconstruction=rendered(), mask=hidden())
    assert first["text"] == session.ask(QUESTION, max_new_tokens=5).text


def test_a_file_without_output_goes_to_the_pipe(run: Any, pairs: Path) -> None:
    done = run("pair", "--input", pairs, *SHORT)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["id"] for line in lines] == ["a/first one.png", "b"]
    assert all("image" not in line and "sheet" not in line for line in lines)


def test_records_without_a_pair_are_named(run: Any, tmp_path: Path) -> None:
    picture(61, 83, 1).save(tmp_path / "a.png")
    content = [{"type": "image", "image": "a.png"}, {"type": "text", "text": QUESTION}]
    record = {"id": "x", "messages": [{"role": "user", "content": content}]}
    (tmp_path / "plain.jsonl").write_text(json.dumps(record) + "\n")
    done = run("pair", "--input", tmp_path / "plain.jsonl")
    assert done.exit_code == 1
    assert "this model reads pairs alone" in done.stderr and "plain.jsonl:1" in done.stderr


def test_a_fault_in_a_file_stops_all(run: Any, pairs: Path, tmp_path: Path) -> None:
    Image.fromarray(hidden().T.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    done = run("pair", "--input", pairs, *SHORT)
    assert done.exit_code == 1 and not done.stdout
    assert "pairs.jsonl:1" in done.stderr and "occlusion_mask" in done.stderr
    done = run("pair", "--input", pairs, "--skip-faulty", "--json", *SHORT)
    document = json.loads(done.stdout)
    assert (document["count"], document["faulty"]) == (1, 1)


FAULTS = [
    ("silent", ["--complete"], "no 'complete'"),
    ("dual", ["--ask", "What?"], "no 'reconstruction'"),
    ("pair", ["--ask", "What?", "--mask", "nowhere.png"], "nowhere.png"),
    ("pair", ["--ask", "What?", "--mask", "SCENE"], "colours is no mask"),
    ("pair", ["--ask", "What?", "--image-box", "60,2,70,9"], "shows nothing"),
    ("pair", ["--ask", " "], "not blank"),
]


@pytest.mark.parametrize(("model", "words", "told"), FAULTS)
def test_faults_end_with_code_1(
    run: Any, given: list[Any], model: str, words: list[str], told: str
) -> None:
    done = run(model, *given, *(given[1] if word == "SCENE" else word for word in words))
    assert done.exit_code == 1, done.output
    assert told in " ".join(done.stderr.split())


def test_faults_of_the_pictures(run: Any, given: list[Any]) -> None:
    done = run("pair", *given[:2], "--ask", QUESTION)
    assert done.exit_code == 1
    assert "give the reconstruction as well" in " ".join(done.stderr.split())
    done = run("pair", *given[:3], "nowhere.png", "--ask", QUESTION)
    assert done.exit_code == 1 and "nowhere.png" in done.stderr
    done = run("pair", *given[:2], "--benchmark")
    assert done.exit_code == 1 and "the benchmark times one image" in done.stderr
    done = run("dual", "--input", given[1], "--complete")
    assert done.exit_code == 1 and "no 'reconstruction'" in done.stderr


USAGE = [
    (["PAIR"], "give --ask TEXT or --complete as well"),
    (["--reconstruction", "x.png", "--ask", "What?"], "needs --image FILE"),
    (["PAIR", "--phrase", "a cup"], "leave out --phrase"),
    (["PAIR", "--ask", "What?", "--image-box", "1,2,3"], "give left,top,right,bottom"),
    (["PAIR", "--ask", "What?", "--top-k", "3"], "goes with --complete"),
    (["--image", "x.png", "--ask", "What?", "--complete"], "goes with --reconstruction or --inp"),
    (["--image", "x.png", "--ask", "What?", "--image-box", "1,2,3,4"], "goes with --reconstruct"),
    (["--input", "x.jsonl", "--mask", "m.png"], "the records of a file bring their masks"),
]


@pytest.mark.parametrize(("words", "told"), USAGE)
def test_wrong_usage_ends_with_code_2(
    run: Any, given: list[Any], words: list[str], told: str
) -> None:
    spelled = [part for word in words for part in (given if word == "PAIR" else [word])]
    done = run("pair", *spelled)
    assert done.exit_code == 2, done.output
    assert told in " ".join(done.stderr.replace("│", " ").split())
