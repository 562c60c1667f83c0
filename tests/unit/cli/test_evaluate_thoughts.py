"""`chiasm evaluate --suite chain_of_thought` over a file and a tiny host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from chiasm.cli.main import app
from tests.unit.evaluation.test_judges import Server, server  # noqa: F401
from tests.unit.inference.duals import build_dual
from tests.unit.inference.pointers import build_pointer, scene

SUITE = ["--suite", "chain_of_thought"]


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {"pointer": build_pointer(), "dual": build_dual()}


@pytest.fixture
def run(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setattr("chiasm.recipes.loading.load_run", models.__getitem__)
    scene().save(tmp_path / "scene.png")
    records = [
        {"id": "a", "image": "scene.png", "question": "The blue block?", "answer": "blue"},
        {"id": "b", "image": "scene.png", "question": "A red bar?", "answer": "red"},
    ]
    boxes = [[50, 37, 71, 53], [0, 0, 13, 11]]
    file = tmp_path / "cot.jsonl"
    lines = [json.dumps({**r, "region": box}) for r, box in zip(records, boxes, strict=True)]
    file.write_text("\n".join(lines), encoding="utf-8")

    def invoke(name: str, *arguments: Any) -> Any:
        words = ["evaluate", name, "--data", str(file), *SUITE, *map(str, arguments)]
        return CliRunner().invoke(app, words, catch_exceptions=False)

    return invoke


def test_a_closer_look_is_scored_and_written(run: Any, tmp_path: Path) -> None:
    output = tmp_path / "out" / "cot.json"
    done = run("pointer", "--chain-of-thought", "question", "--output", output)
    assert done.exit_code == 0, done.output
    assert "judge: contains_match" in done.stdout
    assert "answering: 2 of 2 questions" in done.stderr
    overall = json.loads(output.read_text(encoding="utf-8"))["overall"]
    assert overall["scores"]["box_iou"]["mean"] == 0.5
    assert overall["scores"]["region_iou"]["mean"] == pytest.approx(16 / 21 / 2, abs=0.05)
    assert (output.parent / "cot.predictions.jsonl").read_text(encoding="utf-8").count("\n") == 2


def test_a_judge_behind_a_url(run: Any, server: Server) -> None:  # noqa: F811
    server.reply = "no idea"
    url = f"http://127.0.0.1:{server.server_port}/v1"
    done = run("pointer", "--chain-of-thought", "none", "--judge-url", url, "--judge-model", "j")
    assert done.exit_code == 0, done.output
    assert "2 replies of the judge held no number and count 0" in done.stderr
    assert len(server.sent) == 2


def test_wrong_use_and_faults(run: Any) -> None:
    half = run("pointer", "--judge-url", "http://localhost:1")
    assert half.exit_code == 2
    assert "give both --judge-url and --judge-model" in half.stderr
    unknown = run("pointer", "--chain-of-thought", "v2")
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert "chain of thought 'v2'; allowed: object, question, none" in unknown.stderr
    mute = run("dual", "--chain-of-thought", "none")
    assert mute.exit_code == 1 and "no 'point'" in mute.stderr


def test_training_data_is_no_option_of_the_suite(run: Any) -> None:
    done = run("pointer", "--train-data", "a.jsonl")
    assert done.exit_code == 2
    assert "has no baseline to fit" in " ".join(done.stderr.split())
