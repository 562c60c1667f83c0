"""The quickstart, at the scale of a test: the same way, fewer scenes and steps."""

import json

from PIL import Image
from typer.testing import CliRunner

from chiasm.cli.main import app

SMALL = ["--scenes", "40", "--steps", "3"]


def test_it_leaves_data_a_run_that_loads_and_a_report(tmp_path):
    output = tmp_path / "out"
    result = CliRunner().invoke(app, ["quickstart", "dual", "-o", str(output), *SMALL, "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [row["questions"] for row in document["rows"]] == ["fine textures", "the host's own"]
    for row in document["rows"]:
        assert row["count"] > 0
        for name in ("majority", "tiny-host", "with the second eye"):
            assert 0 <= row[name] <= 1
    assert (output / "world" / "train.jsonl").is_file()
    assert (output / "dual" / "model.safetensors").is_file()
    assert "<html" in (output / "report" / "report.html").read_text(encoding="utf-8")
    assert set(document["seconds"]) == {"data", "training", "evaluation", "analysis"}


def test_grounding_leaves_a_run_that_points_and_a_report(tmp_path):
    output = tmp_path / "out"
    small = ["--scenes", "20", "--steps", "2", "--json"]
    result = CliRunner().invoke(
        app, ["quickstart", "grounding", "-o", str(output), *small, "--json"]
    )
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["phrases"] > 0
    for maker in ("constant", "coarse", "refined", "coarse ceiling"):
        assert len(document["mean_iou"][maker]) == 2
        assert all(0 <= value <= 1 for value in document["mean_iou"][maker].values())
    shipped = document["mean_iou"]["refined"]["tiny-grounding"]
    assert shipped > document["mean_iou"]["constant"]["tiny-grounding"]
    assert (output / "grounding" / "model.safetensors").is_file()
    assert "<html" in (output / "report" / "pointing.html").read_text(encoding="utf-8")
    assert set(document["seconds"]) == {"data", "training", "evaluation"}


def test_occlusion_leaves_a_run_that_answers_and_sheets(tmp_path):
    output = tmp_path / "out"
    small = ["--scenes", "60", "--steps", "2", "--json"]
    result = CliRunner().invoke(
        app, ["quickstart", "occlusion", "-o", str(output), *small, "--json"]
    )
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["pairs"] == 6
    assert set(document["right"]) == {"trained here, 2 steps", "tiny-pair"}
    for found in document["right"].values():
        assert len(found) == 3 and all(0 <= value <= 1 for value in found.values())
    assert document["right"]["tiny-pair"]["the pair"] > 0.4
    assert (output / "pair" / "model.safetensors").is_file()
    assert len(document["sheets"]) == 4
    for path in document["sheets"]:
        with Image.open(path) as sheet:
            assert sheet.width > 900
    assert set(document["seconds"]) == {"data", "training", "evaluation", "sheets"}


def test_video_leaves_a_run_that_watches_a_ledger_and_a_timeline(tmp_path, monkeypatch):
    monkeypatch.setattr("chiasm.evaluation.video_ledgers.can_measure_memory", lambda: False)
    output = tmp_path / "out"
    small = ["--scenes", "20", "--steps", "2"]
    result = CliRunner().invoke(app, ["quickstart", "video", "-o", str(output), *small, "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["videos"] == 2
    assert "trained here, 2 steps" in document["scores"]
    for found in document["scores"].values():
        for number in ("exact_match", "majority", "map_thumos", "map_activitynet"):
            assert 0 <= found[number] <= 1
    if "tiny-video" in document["scores"]:
        # Of eight questions one cannot tell much; of what happens when, all of it.
        assert document["scores"]["tiny-video"]["map_thumos"] > 0.9
    assert list(document["ledger"]) == ["unmerged", "merged"]
    assert (output / "video" / "model.safetensors").is_file()
    assert (output / "world" / "test" / "videos" / "test-0.mp4").is_file()
    assert "<html" in (output / "report" / "ledger.html").read_text(encoding="utf-8")
    with Image.open(document["timeline"]) as timeline:
        assert timeline.width > 900
    assert set(document["seconds"]) == {"data", "training", "evaluation", "report"}


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    result = CliRunner().invoke(app, ["quickstart", "dual", "-o", str(tmp_path), *SMALL])
    assert result.exit_code == 1
    assert "is not empty" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_unknown_family_names_the_known(tmp_path):
    result = CliRunner().invoke(app, ["quickstart", "duel", "-o", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "dual" in result.output
