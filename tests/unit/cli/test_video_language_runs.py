"""A host that watches, from a recipe to the command line: train, load, predict, evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from chiasm.cli.main import app
from chiasm.data.world import write
from chiasm.inference.session import Session
from chiasm.models.video_language import VideoLanguage
from chiasm.recipes.loading import load_recipe, load_run
from chiasm.recipes.running import prepare, run
from tests.tiny import tiny_qwen2_5_vl
from tests.tiny_watchers import write_square

WATCHING = [
    "video_language.path=null",
    "video_language.budget=13",
    "video={frames: {cell: 32, stem: 5, channels: [7], width: 22}, sampling: {kind: uniform, "
    "count: 7}, reader: {attention: dense, options: {}, depth: 1, heads: 2}, answer_head: null}",
    "data.train.0.count=11",
    "data.validation.0.count=3",
    "training.batch_size=2",
    "training.evaluate_every=3",
    "training.stages.0.steps=3",
    "training.stages.0.warmup=0",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("video_language")
    tiny_qwen2_5_vl().save(home / "host")
    recipe = load_recipe("tiny-video-language", [f"host.path={home / 'host'}", *WATCHING])
    prepared = prepare(recipe, home / "run", home)
    run(prepared, home / "run")
    return home / "run"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "world"
    write.make("motion_single", folder, 20, 3, splits=("test",), questions_per_image=2)
    return folder


def invoke(*words: Any) -> Any:
    return CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)


def test_a_run_loads_with_the_host_it_was_built_on(trained: Path) -> None:
    model = load_run(trained)
    assert isinstance(model, VideoLanguage)
    saved = load_file(trained / "model.safetensors")
    parts = {name.split("/")[0] for name in saved}
    assert parts == {"video_projector", "host_adapter", "frame_encoder", "reader"}
    projector = dict(model.projector.named_parameters())
    assert torch.equal(projector["time.weight"], saved["video_projector/time.weight"])
    told = json.loads((trained / "parts.json").read_text(encoding="utf-8"))
    assert told
    # The host under its adapter is the one on disk, bit for bit.
    base = tiny_qwen2_5_vl().model.state_dict()
    now = {
        name.replace(".base_layer", ""): value
        for name, value in model.host.model.state_dict().items()
        if "lora_" not in name
    }
    assert set(now) == set(base)
    assert all(torch.equal(value, base[name]) for name, value in now.items())


def test_one_video_is_answered_in_the_hosts_words(trained: Path, tmp_path: Path) -> None:
    video, output = write_square(tmp_path / "square.mp4"), tmp_path / "out"
    words = ("--video", video, "--ask", "What moved?", "--max-new-tokens", 5)
    done = invoke("predict", trained, *words, "--output", output, "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    session = Session(load_run(trained))
    session.set(video=video)
    assert document["text"] == session.ask("What moved?", max_new_tokens=5).text
    assert (document["tokens"], document["remembered"]) == (7 * 4, 13)
    assert (output / "timeline.png").is_file()
    shown = invoke("predict", trained, *words).stdout
    assert document["text"].strip() in shown and ", 13 remembered" in shown
    silent = invoke("predict", trained, "--video", video)
    assert silent.exit_code == 1


def test_a_file_of_questions_is_answered(trained: Path, tmp_path: Path) -> None:
    write_square(tmp_path / "square.mp4")
    records = [
        {"id": "one", "video": "square.mp4", "question": "What moved?"},
        {
            "id": "two",
            "videos": ["square.mp4"],
            "messages": [{"role": "user", "content": "<video>Where?"}],
        },
    ]
    file = tmp_path / "asked.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    done = invoke("predict", trained, "--input", file, "--json")
    assert done.exit_code == 0, done.stderr
    lines = json.loads(done.stdout)["predictions"]
    session = Session(load_run(trained))
    session.set(video=tmp_path / "square.mp4")
    asked = ("What moved?", "Where?")
    assert [line["text"] for line in lines] == [session.ask(text).text for text in asked]
    # The settings of the command line are those of each answer.
    drawn = ("--max-new-tokens", 3, "--temperature", 0.9, "--seed", 4, "--json")
    done = invoke("predict", trained, "--input", file, *drawn)
    assert done.exit_code == 0, done.stderr
    how = {"max_new_tokens": 3, "temperature": 0.9, "seed": 4}
    assert [line["text"] for line in json.loads(done.stdout)["predictions"]] == [
        session.ask(text, **how).text for text in asked
    ]
    assert [session.ask(text, max_new_tokens=3).text for text in asked] != [
        session.ask(text, **how).text for text in asked
    ]


@pytest.mark.parametrize(
    ("file", "suite", "number", "longest"),
    [("video_qa", "answers", "exact_match", 32), ("video_captioning", "captions", "rouge_l", 128)],
)
def test_answers_and_captions_are_scored(
    trained: Path, world: Path, file: str, suite: str, number: str, longest: int
) -> None:
    data = world / "test" / "annotations" / f"{file}.json"
    done = invoke("evaluate", trained, "--data", data, "--suite", suite, "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert number in document["overall"]["scores"]
    # A sentence about a video is longer than an answer.
    assert document["context"]["generation"]["max_new_tokens"] == longest


def test_the_suite_of_actions_says_what_to_take_instead(trained: Path, world: Path) -> None:
    done = invoke("evaluate", trained, "--data", world, "--split", "test", "--suite", "video")
    assert done.exit_code == 1
    assert "score them with --suite answers or --suite captions" in " ".join(done.stderr.split())


def test_a_plan_counts_what_is_added(trained: Path) -> None:
    host = trained.parent / "host"
    done = invoke("plan", "tiny-video-language", f"host.path={host}", *WATCHING, "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    model = load_run(trained)
    assert isinstance(model, VideoLanguage)
    counted = {row["name"]: row["parameters"] for row in document["parts"]}
    assert counted == {
        name: sum(one.numel() for one in part.parameters()) for name, part in model.parts.items()
    }
    assert document["tokens"]["cells"] == 7 * 4
