"""`chiasm predict --ground` and `--chain-of-thought`: pages, regions and wrong usage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from chiasm.cli.main import app
from chiasm.inference.phrases import EXTRACTORS
from tests.unit.inference.duals import build_dual
from tests.unit.inference.pointers import build_pointer, scene
from tests.unit.inference.test_grounded import first_word

ASK = ["--ask", "Where is the blue block?", "--max-new-tokens", "23"]


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {"pointer": build_pointer(), "dual": build_dual()}


@pytest.fixture
def run(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("chiasm.recipes.loading.load_run", models.__getitem__)
    monkeypatch.setitem(EXTRACTORS, "first", first_word)

    def invoke(*arguments: Any) -> Any:
        words = ["predict", *map(str, arguments), "--device", "cpu"]
        return CliRunner().invoke(app, words, catch_exceptions=False)

    return invoke


@pytest.fixture
def image(tmp_path: Path) -> Path:
    scene().save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


def test_a_grounded_answer(run: Any, image: Path, tmp_path: Path) -> None:
    output = tmp_path / "said"
    words = ["--ground", "--extractor", "first", "--output", output, "--json"]
    done = run("pointer", "--image", image, *ASK, *words)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    (mask,) = document["masks"]
    assert document["text"][mask["start"] : mask["stop"]] == mask["phrase"]
    assert document["files"][-1] == str(output / "grounded.html")
    page = (output / "grounded.html").read_text(encoding="utf-8")
    assert f">{mask['phrase']}</a>" in page
    assert (output / "overlay.png").exists()
    plain = run("pointer", "--image", image, *ASK, "--json")
    assert json.loads(plain.stdout)["text"] == document["text"]


def test_phrases_may_be_asked_beside_a_grounded_answer(run: Any, image: Path) -> None:
    words = ["--ground", "--extractor", "first", "--phrase", "the red bar", "--json"]
    document = json.loads(run("pointer", "--image", image, *ASK, *words).stdout)
    assert [mask["phrase"] for mask in document["masks"]][1:] == ["the red bar"]


def test_an_answer_without_phrases_is_told(
    run: Any, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXTRACTORS, "none", lambda text: [])
    done = run("pointer", "--image", image, *ASK, "--ground", "--extractor", "none", "--json")
    assert json.loads(done.stdout)["masks"] == []
    assert "the answer has no phrase to point at" in done.stderr


def test_a_closer_look(run: Any, image: Path, tmp_path: Path) -> None:
    output = tmp_path / "seen"
    words = ["--chain-of-thought", "question", "--output", output]
    done = run("pointer", "--image", image, *ASK, *words)
    assert done.exit_code == 0, done.output
    assert "looked closer at: Where is the blue block?, x 50 to 71, y 34 to 55" in done.stdout
    with Image.open(output / "region.png") as region:
        assert region.size == (21, 21)
        assert region.tobytes() == scene().crop((50, 34, 71, 55)).tobytes()
    (line,) = (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["region"] == [50, 34, 71, 55]
    assert json.loads(line)["mask"]["area"] == 336
    assert (output / "mask-1-where-is-the-blue-block.png").exists()


def test_a_closer_look_at_nothing(run: Any, image: Path, tmp_path: Path) -> None:
    question = ["--ask", "Where is the green ball?", "--max-new-tokens", 3]
    done = run("pointer", "--image", image, *question, "--chain-of-thought", "question")
    assert "looked closer at: nothing found, so at the whole picture" in done.stdout
    plain = run("pointer", "--image", image, *question, "--chain-of-thought", "none")
    assert "looked closer" not in plain.stdout


WRONG = [
    (["--ground"], "needs --image FILE and --ask TEXT"),
    (["--ground", "--image", "a.png"], "needs --image FILE and --ask TEXT"),
    (["--chain-of-thought", "object", "--ask", "What?"], "needs --image FILE and --ask TEXT"),
    (["--ground", "--chain-of-thought", "object", "--ask", "What?"], "choose one: --ground or"),
    (["--ground", "--input", "a.jsonl"], "leave out --ground"),
    (["--benchmark", "--image", "a.png", "--ask", "x", "--ground"], "leave out --ground"),
]


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_wrong_usage_is_code_2(run: Any, words: list[str], message: str) -> None:
    done = run("pointer", *words)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.replace("\u2502", " ").split())


FAULTS = [
    ("dual", ["--ground"], "this model has no 'point'"),
    ("dual", ["--chain-of-thought", "none"], "this model has no 'point'"),
    ("pointer", ["--chain-of-thought", "v1"], "chain of thought 'v1'; allowed: object, question"),
    ("pointer", ["--ground", "--extractor", "rule"], "unknown phrase extractor 'rule'"),
]


@pytest.mark.parametrize(("name", "words", "message"), FAULTS)
def test_faults_are_code_1(
    run: Any, image: Path, tmp_path: Path, name: str, words: list[str], message: str
) -> None:
    done = run(name, "--image", image, *ASK, *words, "--output", tmp_path / "out")
    assert (done.exit_code, done.stdout) == (1, "")
    assert message in done.stderr
    assert not (tmp_path / "out").exists()
