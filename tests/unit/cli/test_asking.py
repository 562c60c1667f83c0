"""`chiasm evaluate` and `chiasm analyze` over real files, with eyes that answer from pixels."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from chiasm.cli.main import app
from chiasm.cli.output import console
from tests.unit.evaluation.eyes import COLOUR, STRIPES, Eyes, picture

COUNT = 7


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    lines = []
    for number in range(COUNT):
        red, across = bool(number & 1), bool(number & 2)
        Image.fromarray(picture(red, across)).save(folder / f"{number}.png")
        asked = [{"type": "image", "image": f"{number}.png"}, {"type": "text", "text": STRIPES}]
        messages = [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": "across" if across else "down"},
            {"role": "user", "content": COLOUR},
            {"role": "assistant", "content": "red" if red else "blue"},
        ]
        lines.append(json.dumps({"id": f"s{number}", "messages": messages, "group": "scenes"}))
    path = folder / "test.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def eyes(monkeypatch):
    """Runs by name: `eyes` sees, `null` was trained on shuffled features, `plain` has no gate."""
    made = {"eyes": Eyes(), "null": Eyes(blind=True), "plain": Eyes(gated=False)}
    monkeypatch.setattr("chiasm.cli.evaluate.load_any_answerer", lambda name, suite: made[name])
    monkeypatch.setattr("chiasm.cli.analyze.load_answerer", made.__getitem__)
    return made


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_evaluate_prints_one_document_and_writes_files(data, eyes, tmp_path):
    output = tmp_path / "result.json"
    done = run("evaluate", "null", "--data", data, "--output", output, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["overall"]["scores"]["exact_match"]["mean"] == pytest.approx(11 / 14)
    assert document["files"] == [str(output), str(tmp_path / "result.predictions.jsonl")]
    saved = json.loads(output.read_text(encoding="utf-8"))
    assert saved["overall"] == document["overall"]
    assert saved["context"]["data"] == str(data)
    assert "answering: 14 of 14 questions" in done.stderr


def test_evaluate_shows_a_table_with_the_baseline(data, eyes):
    done = run("evaluate", "eyes", "--data", data, "--train-data", data)
    assert done.exit_code == 0, done.output
    assert "1.000" in done.stdout
    assert "majority" in done.stdout
    assert "scenes" in done.stdout
    assert "bootstrap" in done.stdout


def test_unknown_suite_is_a_fault_of_the_user(data, eyes):
    done = run("evaluate", "eyes", "--data", data, "--suite", "answer")
    assert done.exit_code == 1
    assert "unknown suite 'answer'" in done.stderr
    assert "chain_of_thought, completion, grounding" in done.stderr


def test_analyze_writes_the_page_and_numbers(data, eyes, tmp_path):
    output = tmp_path / "analysis"
    done = run("analyze", "eyes", "--data", data, "--control", "null", "--output", output, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["files"] == [str(output / "report.html"), str(output / "analysis.json")]
    names = [setting["name"] for setting in document["settings"]]
    assert names == ["learned", "host only", "dino only", "mean gate", "shuffled", "control"]
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "Seeing with dino brings 21.4 points" in page
    assert "control: 14 of 14 questions" in done.stderr


def test_analyze_tells_people_what_matters(data, eyes, tmp_path):
    done = run("analyze", "plain", "--data", data, "--output", tmp_path / "analysis")
    assert done.exit_code == 0, done.output
    assert "The model relies on dino" in done.stdout
    assert "has no gate" in done.stdout
    assert "page:" in done.stdout


def test_batches_of_one_are_wrong_usage(data, eyes, tmp_path):
    done = run("analyze", "eyes", "--data", data, "--output", tmp_path, "--batch-size", "1")
    assert done.exit_code == 2


@pytest.mark.parametrize("verb", ["evaluate", "analyze"])
def test_help_has_an_example(verb):
    done = run(verb, "--help")
    assert done.exit_code == 0
    assert f"chiasm {verb} runs/dual" in " ".join(done.stdout.split())


def test_a_bar_on_a_terminal(data, eyes, monkeypatch, tmp_path):
    monkeypatch.setattr(console, "_force_terminal", True)
    done = run("evaluate", "eyes", "--data", data, "--json")
    assert done.exit_code == 0, done.output
    assert "14/14" in done.stderr
    assert json.loads(done.stdout)["overall"]["count"] == 14
