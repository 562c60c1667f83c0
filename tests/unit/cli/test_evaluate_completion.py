"""`chiasm evaluate --suite completion`, on a trained run and files of a world."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from chiasm.cli.main import app
from chiasm.data.dataset import load_dataset
from chiasm.data.world.write import make
from chiasm.evaluation.completion import MAKERS, evaluate_completion
from chiasm.evaluation.pair_answering import PairAnswerer
from chiasm.evaluation.questions import split_questions
from chiasm.models.occlusion import Occlusion
from chiasm.recipes.loading import load_run
from chiasm.recipes.running import prepare, run
from tests.tiny_pairs import tiny_pair_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step, and the world `occluded` as files."""
    folder = tmp_path_factory.mktemp("completion")
    recipe = tiny_pair_recipe("training.stages.0.steps=1", "data.validation=[]")
    run(prepare(recipe, folder / "run", Path()), folder / "run")
    make("occluded", folder / "world", 20, 3)
    return folder


def test_files_of_a_world_are_scored_like_the_world(folder: Path) -> None:
    data = folder / "world" / "pairs.json"
    told = ["evaluate", str(folder / "run"), "--data", str(data), "--suite", "completion"]
    output = folder / "report.json"
    done = CliRunner().invoke(app, [*told, "--split", "test", "--output", str(output), "--json"])
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    samples = list(load_dataset(data, split="test"))
    assert 0 < len(samples) < len(list(load_dataset(data)))
    model = load_run(folder / "run")
    assert isinstance(model, Occlusion)
    expected = evaluate_completion(model, samples)
    assert document["groups"] == expected.groups and document["samples"] == len(samples)
    assert set(document["groups"]["all"]["model"]) == {"count", "iou", "psnr"}
    assert json.loads(output.read_text())["groups"] == expected.groups
    people = CliRunner().invoke(app, [*told, "--split", "test"])
    assert "silhouette IoU" in people.stdout and all(maker in people.stdout for maker in MAKERS)


def test_answers_about_pairs_are_scored(folder: Path) -> None:
    data = folder / "world" / "pairs.json"
    told = ["evaluate", str(folder / "run"), "--data", str(data), "--split", "test"]
    output = folder / "answers.json"
    done = CliRunner().invoke(app, [*told, "--output", str(output), "--json"])
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    questions = split_questions(load_dataset(data, split="test"))
    assert document["overall"]["count"] == len(questions) > 0
    model = load_run(folder / "run")
    assert isinstance(model, Occlusion)
    said = PairAnswerer(model).answers([question.sample for question in questions])
    lines = (folder / "answers.predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == said


def test_a_model_that_draws_nothing_is_an_error(folder: Path) -> None:
    told = ["evaluate", "tiny-host", "--data", str(folder / "world" / "pairs.json")]
    done = CliRunner().invoke(app, [*told, "--suite", "completion"])
    assert done.exit_code == 1 and "this model has no 'complete'" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--seed", "3"], "draws the likeliest codes and no intervals"),
        (["--keep-history"], "asks no later turns"),
        (["--train-data", "x.json"], "has no baseline to fit"),
        (["--chain-of-thought", "object"], "goes with --suite chain_of_thought"),
        (["--batch-size", "0"], "--batch-size"),
    ],
)
def test_options_that_the_suite_would_leave_aside_are_wrong_usage(
    words: list[str], told: str
) -> None:
    done = CliRunner().invoke(
        app, ["evaluate", "tiny-pair", "--data", "x.json", "--suite", "completion", *words]
    )
    assert done.exit_code == 2, done.output
    assert told in " ".join(done.stderr.replace("│", " ").split())
