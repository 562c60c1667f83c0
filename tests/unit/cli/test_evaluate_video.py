"""`chiasm evaluate --suite video`: numbers of the predictions, the ledger, files and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from chiasm.cli.main import app
from chiasm.data.dataset import load_dataset
from chiasm.data.world import write
from chiasm.evaluation.video_scores import read_predictions, score_videos
from chiasm.inference.session import Session
from chiasm.metrics import rouge_l
from chiasm.metrics.normalisation import tokenise_caption
from tests.tiny_watchers import tiny_watcher
from tests.unit.inference.duals import build_dual


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "world"
    write.make("motion", folder, 20, 3, splits=("test",), questions_per_image=2)
    return folder


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    merging = {"kind": "similarity", "ratio": 0.5}
    fast = {"sampling": {"kind": "rate", "rate": 3}}
    return {
        "video": tiny_watcher(compression=merging, **fast),
        "blind": tiny_watcher(action_head=None, **fast),
        "writer": tiny_watcher(
            answer_head=None,
            action_head=None,
            caption_head={"width": 26, "heads": 2, "layers": 1, "longest": 37},
            **fast,
        ),
        "teller": tiny_watcher(
            action_head=None,
            caption_head={"width": 26, "heads": 2, "layers": 1, "longest": 7},
            caption_requests=["Tell me."],
            **fast,
        ),
        "dual": build_dual(),
    }


@pytest.fixture
def run(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("chiasm.recipes.loading.load_run", models.__getitem__)
    # Peaks are seen in forked processes, which take their time; the ledger's own tests see them.
    monkeypatch.setattr("chiasm.evaluation.video_ledgers.can_measure_memory", lambda: False)

    def invoke(*arguments: Any) -> Any:
        words = ["evaluate", "--suite", "video", *map(str, arguments)]
        return CliRunner().invoke(app, words, catch_exceptions=False)

    return invoke


def test_the_report_holds_scores_and_the_ledger(run: Any, world: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = run("video", "--data", world, "--split", "test", "--output", report, "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    samples = list(load_dataset(world, split="test"))
    predictions = read_predictions(tmp_path / "report.predictions.jsonl")
    assert document["numbers"] == score_videos(predictions, samples).numbers()
    assert document["videos"] == 2
    assert {"exact_match", "map_thumos", "map_activitynet"} <= set(document["numbers"])
    assert document["unscored"] == {"captions": 2}
    assert list(document["ledger"]) == ["unmerged", "merged"]
    assert [row["name"] for row in document["ledger"]["merged"]["rows"]] == [
        "decode", "encode", "merge", "read", "predict", "total",
    ]  # fmt: skip
    assert document["texts"]["answers"]["context"]["model"] == "video"
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")
    written = json.loads(report.read_text(encoding="utf-8"))
    assert written["numbers"] == document["numbers"]
    assert len(document["files"]) == 3


def test_people_see_tables(run: Any, world: Path) -> None:
    shown = run("video", "--data", world).stdout
    for told in ("thumos", "activitynet", "exact_match", "majority", "unmerged", "merge"):
        assert told in shown
    assert "2 sample(s) of captions were not scored" in " ".join(shown.split())


def test_a_model_without_actions_is_scored_on_answers(run: Any, world: Path) -> None:
    document = json.loads(run("blind", "--data", world, "--json").stdout)
    assert document["detection"] == {} and "exact_match" in document["numbers"]
    assert list(document["ledger"]) == ["unmerged"]
    assert document["unscored"] == {"captions": 2, "actions": 2}


def test_captions_are_scored(run: Any, world: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = run("writer", "--data", world, "--output", report, "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    numbers = document["numbers"]
    assert {"rouge_l", "meteor_approximate", "cider_d", "bleu_1", "bleu_4"} <= set(numbers)
    assert "exact_match" not in numbers and document["texts"]["captions"]["overall"]["count"] == 2
    # What was asked for and cannot be told stays counted.
    assert document["unscored"] == {"answers": 2, "actions": 2}
    predictions = {line["id"]: line for line in read_predictions(
        tmp_path / "report.predictions.jsonl")}  # fmt: skip
    told = [sample for sample in load_dataset(world) if sample.identifier in predictions]
    captions = [sample for sample in told if "text" in predictions[sample.identifier]]
    assert len(captions) == 2
    said = [predictions[sample.identifier]["text"] for sample in captions]
    truth = [[tokenise_caption(str(sample.turns[1].text))] for sample in captions]
    assert numbers["rouge_l"] == pytest.approx(rouge_l(said, truth))


def test_captions_that_another_text_asks_for_are_no_answers(
    run: Any, world: Path, tmp_path: Path
) -> None:
    source = world / "test" / "annotations" / "video_captioning.json"
    records = [
        {
            "video_id": one["video_id"],
            "messages": [
                {"role": "user", "content": "<video>Tell me."},
                {"role": "assistant", "content": "a red ball moves"},
            ],
        }
        for one in json.loads(source.read_text(encoding="utf-8"))
    ]
    data = source.with_name("told.json")
    data.write_text(json.dumps(records), encoding="utf-8")
    done = run("teller", "--data", data, "--json")
    data.unlink()
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert set(document["texts"]) == {"captions"} and "rouge_l" in document["numbers"]


def test_the_suite_of_captions_is_for_what_the_caption_head_writes(
    run: Any, models: dict[str, Any], world: Path, tmp_path: Path
) -> None:
    data, report = world / "test" / "annotations" / "video_captioning.json", tmp_path / "told.json"
    asked = ("--suite", "captions", "--data", data)
    done = run("writer", *asked, "--output", report, "--json")
    assert done.exit_code == 0, done.stderr
    lines = read_predictions(tmp_path / "told.predictions.jsonl")
    session = Session(models["writer"])
    for sample, line in zip(load_dataset(data), lines, strict=True):
        session.set(video=sample.video)
        assert (line["id"], line["text"]) == (sample.identifier, session.caption().text)
    # What answers out of a closed set describes nothing, and questions ask for no caption.
    refused = run("video", *asked)
    assert refused.exit_code == 1 and "video has no caption head: it answers out" in refused.stderr
    others = run("writer", "--suite", "captions", "--data", data.with_name("video_qa.json"))
    assert others.exit_code == 1
    assert "questions ask for no caption" in " ".join(others.stderr.split())
    assert "answering" not in others.stderr


def test_what_cannot_be_evaluated(run: Any, world: Path, tmp_path: Path) -> None:
    other = run("dual", "--data", world)
    assert other.exit_code == 1
    assert "this model has no 'video'" in " ".join(other.stderr.split())
    path = tmp_path / "texts.json"
    turns = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}]
    path.write_text(json.dumps([{"id": "a", "messages": turns}]), encoding="utf-8")
    silent = run("video", "--data", path)
    assert silent.exit_code == 1
    assert "1 of 1 sample(s) without video" in " ".join(silent.stderr.split())
    assert run("video", "--data", world, "--keep-history").exit_code == 2
