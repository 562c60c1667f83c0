"""`chiasm predict` on videos: one, a file of them, the timeline, the ledger and what is refused."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from chiasm.cli.main import app
from chiasm.data.video_words import VIDEO_REQUEST
from chiasm.evaluation.video_scores import read_predictions
from chiasm.inference.session import Session
from tests.tiny_watchers import (
    FEATURES,
    FRAMES,
    RATE,
    STREAM,
    by_domain,
    tiny_watcher,
    write_square,
)
from tests.unit.inference.duals import build_dual

CAPTIONS = {"width": 26, "heads": 2, "layers": 1, "longest": 13}
QUESTION = "What color is the thing that moves?"


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    merging = {"kind": "similarity", "ratio": 0.5}
    return {
        "video": tiny_watcher(compression=merging),
        "stream": tiny_watcher(**STREAM),
        "features": tiny_watcher(**FEATURES),
        "silent": tiny_watcher(answer_head=None),
        "blind": tiny_watcher(action_head=None),
        "writer": tiny_watcher(answer_head=None, action_head=None, caption_head=CAPTIONS),
        "domains": by_domain(),
        "dual": build_dual(),
    }


@pytest.fixture
def run(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("chiasm.recipes.loading.load_run", models.__getitem__)
    # Peaks are seen in forked processes, which take their time; the ledger's own tests see them.
    monkeypatch.setattr("chiasm.evaluation.video_ledgers.can_measure_memory", lambda: False)

    def invoke(*arguments: Any) -> Any:
        words = ["predict", *map(str, arguments), "--device", "cpu"]
        return CliRunner().invoke(app, words, catch_exceptions=False)

    return invoke


@pytest.fixture
def square(tmp_path: Path) -> Path:
    return write_square(tmp_path / "square.mp4")


def test_one_video_is_watched_and_asked_about(
    run: Any, models: dict[str, Any], square: Path, tmp_path: Path
) -> None:
    session = Session(models["video"])
    session.set(video=square)
    output = tmp_path / "watched"
    done = run("video", "--video", square, "--ask", QUESTION, "--output", output, "--json")
    document = json.loads(done.stdout)
    assert document["text"] == session.ask(QUESTION).text
    segments = [segment.document() for segment in session.watch()]
    assert document["segments"] == segments and segments
    assert (document["frames"], document["tokens"]) == (FRAMES, FRAMES * 6)
    assert document["kept"] < 0.6 * document["tokens"]
    assert document["duration"] == pytest.approx(FRAMES / RATE, abs=1e-3)
    assert document["files"] == [str(output / "predictions.jsonl"), str(output / "timeline.png")]
    (line,) = read_predictions(output / "predictions.jsonl")
    assert (line["id"], line["segments"]) == ("square.mp4", segments)
    with Image.open(output / "timeline.png") as picture:
        assert picture.width > 900


def test_people_see_the_sure_segments_and_how_many_more(run: Any, square: Path) -> None:
    document = json.loads(run("video", "--video", square, "--json").stdout)
    assert "text" not in document
    scores = [segment["score"] for segment in document["segments"]]
    middle = sorted(scores)[len(scores) // 2] + 1e-6
    shown = run("video", "--video", square, "--score", middle).stdout
    sure = sum(score >= middle for score in scores)
    assert shown.count(" s to ") == sure > 0
    told = " ".join(shown.split())
    assert f"{sure} segment(s) of score" in told and f"{len(scores) - sure} below it" in told
    assert f"{FRAMES} frames of" in told and "merged to" in told and "read at once" in told
    assert "read clip by clip" in " ".join(run("stream", "--video", square).stdout.split())


def test_unknown_words_are_told(run: Any, square: Path) -> None:
    done = run("video", "--video", square, "--ask", "What color is the zeppelin?")
    assert "words that the model does not know: zeppelin" in done.stderr
    assert "likeliest:" in done.stdout


def test_a_folder_and_a_file_of_features(run: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "clip.npy", np.sin(np.arange(77, dtype=np.float32)).reshape(11, 7))
    output = tmp_path / "out"
    done = run("features", "--video", tmp_path / "clip.npy", "--output", output, "--json")
    assert json.loads(done.stdout)["duration"] == 5.5
    assert (output / "timeline.png").is_file()


def test_a_video_is_read_through_the_domain_that_is_named(
    run: Any, models: dict[str, Any], square: Path
) -> None:
    model = models["domains"]
    session = Session(model)
    shares = []
    for domain in model.domains:
        session.set(video=square, domain=domain)
        answer = session.ask(QUESTION)
        told = ("--ask", QUESTION, "--domain", domain, "--json")
        document = json.loads(run("domains", "--video", square, *told).stdout)
        assert document["text"] == answer.text
        assert document["likeliest"] == answer.document()["likeliest"]
        shares.append(max(document["likeliest"].values()))
    assert len(set(shares)) == len(model.domains)


def test_a_domain_is_told_where_it_is_needed_and_nowhere_else(run: Any, square: Path) -> None:
    for name, words, message in (
        ("domains", (), "has parts for each domain (sports, "),
        ("domains", ("--domain", "sea"), "the domain 'sea' is none of the 4"),
        ("video", ("--domain", "news"), "domain 'news': told of a video, and only to a model that"),
    ):
        done = run(name, "--video", square, *words)
        assert (done.exit_code, done.stdout) == (1, "")
        assert message in " ".join(done.stderr.split())


def test_heads_that_are_missing(run: Any, square: Path) -> None:
    asked = run("silent", "--video", square, "--ask", QUESTION)
    assert (asked.exit_code, asked.stdout) == (1, "")
    assert "this model has no 'ask'; it has video, watch" in " ".join(asked.stderr.split())
    watched = run("blind", "--video", square)
    assert watched.exit_code == 1
    assert "this model has no 'watch'; it has ask, video" in " ".join(watched.stderr.split())
    answered = json.loads(run("blind", "--video", square, "--ask", QUESTION, "--json").stdout)
    assert answered["text"] and "segments" not in answered
    other = run("dual", "--video", square)
    assert other.exit_code == 1
    assert "this model has no 'video'; it has ask, image" in " ".join(other.stderr.split())


def test_faulty_videos_are_code_1(run: Any, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name, told in {"gone.mp4": "gone.mp4: does not exist", "empty.mp4": "empty.mp4"}.items():
        done = run("video", "--video", tmp_path / name)
        assert (done.exit_code, done.stdout) == (1, "")
        assert told in done.stderr.replace("\n", "")


def test_a_still_is_asked_about_and_not_watched(run: Any, tmp_path: Path) -> None:
    still, output = write_square(tmp_path / "still.mp4", 1), tmp_path / "seen"
    done = run("video", "--video", still, "--ask", QUESTION, "--output", output, "--json")
    document = json.loads(done.stdout)
    assert document["text"] and "segments" not in document
    assert (output / "timeline.png").is_file()
    alone = run("video", "--video", still)
    assert alone.exit_code == 1 and "one frame of its" in alone.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such name")
def test_a_name_that_is_no_text_is_spelled(run: Any, square: Path, tmp_path: Path) -> None:
    odd, output = tmp_path / os.fsdecode(b"\xff.mp4"), tmp_path / "watched"
    square.rename(odd)
    done = run("video", "--video", odd, "--output", output, "--json")
    assert json.loads(done.stdout)["video"] == str(odd)
    (line,) = read_predictions(output / "predictions.jsonl")
    assert line["id"] == odd.name


def test_a_file_of_videos(run: Any, models: dict[str, Any], square: Path, tmp_path: Path) -> None:
    write_square(tmp_path / "short.mp4", 11)
    records = [
        {"id": "alone", "video": "square.mp4"},
        {"id": "one", "video": "short.mp4", "question": QUESTION},
        {"id": "two", "video": "square.mp4", "qa_pairs": [
            {"question": QUESTION, "answer": "red"}, {"question": "What moved first?"}]},
        {"id": "told", "video": "short.mp4", "actions": []},
        {"id": "caption", "video": "short.mp4", "caption": "A square moves."},
    ]  # fmt: skip
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    output = tmp_path / "answers"
    done = run("video", "--input", path, "--output", output, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["count"] == 7
    lines = {line["id"]: line for line in read_predictions(output / "predictions.jsonl")}
    assert list(lines) == ["alone", "one", "two#0", "two#1", "two", "told", "caption"]
    session = Session(models["video"])
    session.set(video=square)
    assert lines["two#0"]["text"] == session.ask(QUESTION).text
    assert "segments" not in lines["two#0"] and "text" not in lines["two"]
    expected = [segment.document() for segment in session.watch()]
    assert lines["alone"]["segments"] == lines["two"]["segments"] == expected
    assert "text" not in lines["told"] and "text" not in lines["caption"]
    assert lines["one"]["text"] and lines["one"]["segments"] == lines["told"]["segments"]


def test_faulty_records_are_told_or_counted(run: Any, square: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video" * 99)
    records = [{"id": "a", "video": "square.mp4"}, {"id": "b", "video": "broken.mp4"}]
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    done = run("video", "--input", path)
    assert (done.exit_code, done.stdout) == (1, "")
    told = " ".join(done.stderr.split())
    assert "nothing was watched" in told and "asked.jsonl:2: video" in told
    skipped = run("video", "--input", path, "--skip-faulty", "--json")
    document = json.loads(skipped.stdout)
    assert (document["count"], document["faulty"]) == (1, 1)
    refused = run("video", "--input", path, "--temperature", "0.5")
    assert refused.exit_code == 2
    assert "samples nothing" in " ".join(refused.stderr.replace("│", " ").split())
    assert run("video", "--input", path, "--batch-size", "3").exit_code == 2


def test_records_without_video(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    record = {"messages": [{"role": "user", "content": "What?"}]}
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    done = run("video", "--input", path)
    assert done.exit_code == 1
    assert "this model watches videos alone" in " ".join(done.stderr.split())


def test_the_ledger_of_one_video(run: Any, square: Path) -> None:
    document = json.loads(
        run("video", "--video", square, "--benchmark", "--repeats", 1, "--json").stdout
    )
    assert list(document) == ["unmerged", "merged"]
    rows = {name: {row["name"]: row for row in one["rows"]} for name, one in document.items()}
    assert rows["unmerged"]["read"]["tokens_in"] == FRAMES * 6
    assert rows["merged"]["read"]["tokens_in"] == rows["merged"]["merge"]["tokens_out"]
    assert rows["merged"]["merge"]["tokens_out"] < FRAMES * 6
    shown = run("video", "--video", square, "--benchmark", "--repeats", 1).stdout
    assert "unmerged" in shown and "merge" in shown and "median ms" in shown


def test_a_model_that_writes_captions_says_one(
    run: Any, models: dict[str, Any], square: Path, tmp_path: Path
) -> None:
    session = Session(models["writer"])
    session.set(video=square)
    caption = session.caption()
    output = tmp_path / "told"
    done = run("writer", "--video", square, "--output", output, "--json")
    assert json.loads(done.stdout)["caption"] == caption.document()
    (line,) = read_predictions(output / "predictions.jsonl")
    assert line["caption"]["text"] == caption.text
    shown = " ".join(run("writer", "--video", square).stdout.split())
    assert shown.startswith(caption.text) and "likeliest" not in shown
    asked = json.loads(run("writer", "--video", square, "--ask", VIDEO_REQUEST, "--json").stdout)
    assert asked["text"] == caption.text and "caption" not in asked
    short = ("--ask", VIDEO_REQUEST, "--max-new-tokens", 1, "--json")
    cut = json.loads(run("writer", "--video", square, *short).stdout)
    assert (cut["text"], cut["finish"]) == (caption.text.split()[0], "length")
    # The head of answers is missing, and the message says so rather than answering with a caption.
    other = run("writer", "--video", square, "--ask", QUESTION)
    assert other.exit_code == 1 and "this model has no 'ask'" in " ".join(other.stderr.split())


def test_a_file_of_videos_is_described(
    run: Any, models: dict[str, Any], square: Path, tmp_path: Path
) -> None:
    records = [
        {"id": "alone", "video": "square.mp4"},
        {"id": "told", "video": "square.mp4", "caption": "A square moves."},
    ]
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    output = tmp_path / "answers"
    assert run("writer", "--input", path, "--output", output, "--json").exit_code == 0
    session = Session(models["writer"])
    session.set(video=square)
    text = session.caption().text
    assert [line["text"] for line in read_predictions(output / "predictions.jsonl")] == [text] * 2
    short = ("--max-new-tokens", 1, "--json")
    cut = json.loads(run("writer", "--input", path, *short).stdout)["predictions"]
    assert [(line["text"], line["finish"]) for line in cut] == [(text.split()[0], "length")] * 2
    one = json.loads(run("writer", "--video", square, *short).stdout)["caption"]
    assert (one["text"], one["finish"]) == (text.split()[0], "length")
